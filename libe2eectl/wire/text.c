#include "text.h"

#include <stdint.h>
#include <string.h>

size_t text_cut(const char *text, size_t max)
{
    size_t n = text ? strnlen(text, max + 1) : 0;

    if (n <= max)
        return n;
    n = max;
    while (n > 0 && ((unsigned char)text[n] & 0xc0) == 0x80)
        n--;
    return n;
}

size_t text_sequence(const void *bytes, size_t left)
{
    const uint8_t *p = bytes;
    size_t n = p[0] >= 0xf0 ? 4 : p[0] >= 0xe0 ? 3 : 2;
    uint8_t low = 0x80, high = 0xbf;

    if (p[0] < 0x80)
        return 1;
    if (p[0] < 0xc2 || p[0] > 0xf4 || n > left)
        return 0;
    if (p[0] == 0xe0)
        low = 0xa0;
    else if (p[0] == 0xed)
        high = 0x9f;
    else if (p[0] == 0xf0)
        low = 0x90;
    else if (p[0] == 0xf4)
        high = 0x8f;
    if (p[1] < low || p[1] > high)
        return 0;
    for (size_t i = 2; i < n; i++) {
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    }
    return n;
}

static bool ascii8(const uint8_t *p)
{
    uint64_t v;

    memcpy(&v, p, sizeof(v));
    return (v & UINT64_C(0x8080808080808080)) == 0;
}

bool text_valid_utf8(const void *bytes, size_t n)
{
    const uint8_t *p = bytes;

    while (n > 0) {
        size_t step = 1;

        if (n >= 8 && ascii8(p))
            step = 8;
        else if (*p >= 0x80)
            step = text_sequence(p, n);
        if (step == 0)
            return false;
        p += step;
        n -= step;
    }
    return true;
}
