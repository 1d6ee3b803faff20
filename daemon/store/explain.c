#include <stdarg.h>
#include <stdio.h>

#include "explain.h"

void explain(const char **ret_text, const char *fmt, ...)
{
    static _Thread_local char text[1024];
    va_list ap;

    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    *ret_text = text;
}
