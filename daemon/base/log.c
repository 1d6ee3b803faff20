#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#define SD_JOURNAL_SUPPRESS_LOCATION
#include <systemd/sd-journal.h>

#include "base.h"
#include "log.h"

static struct {
    const char *program;
    enum log_level max;
    bool journal;
} logger = {.program = "e2eed", .max = LOG_LEVEL_INFO};

/* systemd names the stream that it connected: only then is standard error really the journal's. */
static bool stderr_is_journal(void)
{
    const char *stream = getenv("JOURNAL_STREAM");
    struct stat st;
    unsigned long long dev, ino;
    return stream && fstat(STDERR_FILENO, &st) == 0 && sscanf(stream, "%llu:%llu", &dev, &ino) == 2 &&
           st.st_dev == dev && st.st_ino == ino;
}

void log_init(const char *program, enum log_level max)
{
    logger.program = program;
    logger.max = max;
    logger.journal = stderr_is_journal();
}

void log_event(enum log_level level, const char *event, const char *fmt, ...)
{
    char text[512];
    va_list ap;
    if (level > logger.max)
        return;
    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    if (logger.journal)
        (void)sd_journal_send("MESSAGE=%s", text, "PRIORITY=%d", (int)level, "E2EED_EVENT=%s", event,
                "SYSLOG_IDENTIFIER=%s", logger.program, NULL);
    else
        (void)fprintf(stderr, "%s: %s: %s\n", logger.program, event, text);
}
