#include "padding.h"

static unsigned log2_floor(size_t n)
{
    unsigned log = 0;
    while (n >>= 1)
        log++;
    return log;
}

static size_t round_up(size_t n, size_t step)
{
    return (n + step - 1) / step * step;
}

size_t padded_length(size_t n)
{
    unsigned e, s;
    if (n <= PADDING_LINEAR_MAX)
        return round_up(n, PADDING_STEP);
    e = log2_floor(n);
    s = log2_floor(e) + 1;
    /* NOLINTNEXTLINE(clang-analyzer-core.UndefinedBinaryOperatorResult): so large an n has e > s */
    return round_up(n, (size_t)1 << (e - s));
}
