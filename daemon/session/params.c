#include <string.h>

#include "state.h"

bool param_str(const struct mp_value *params, const char *name, char *ret, size_t size)
{
    struct mp_value v;
    if (!mp_map_get(params, name, &v) || v.type != MP_STR || v.count >= size)
        return false;
    memcpy(ret, v.bytes, v.count);
    ret[v.count] = 0;
    return true;
}

uint64_t param_uint(const struct mp_value *params, const char *name, uint64_t otherwise)
{
    struct mp_value v;
    return mp_map_get(params, name, &v) && v.type == MP_INT && v.integer >= 0 ? (uint64_t)v.integer
                                                                              : otherwise;
}

bool param_bool(const struct mp_value *params, const char *name, bool otherwise)
{
    struct mp_value v;
    return mp_map_get(params, name, &v) && v.type == MP_BOOL ? v.boolean : otherwise;
}

struct span param_bytes(const struct mp_value *params, const char *name)
{
    static const uint8_t empty[1];
    struct mp_value v;
    if (!mp_map_get(params, name, &v) || (v.type != MP_STR && v.type != MP_BIN))
        return (struct span){0};
    return (struct span){.p = v.count ? v.bytes : empty, .n = v.count};
}
