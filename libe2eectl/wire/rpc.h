/*
 * MessagePack-RPC messages on a byte stream, plain or with Keybase's framing (each message behind its length
 * as a MessagePack integer), told apart by the first byte: a message is an array (0x90..0x9f, 0xdc, 0xdd), a
 * length is an integer.
 */
#ifndef E2EE_RPC_H
#define E2EE_RPC_H

#include "mp.h"

#define RPC_MAX_MESSAGE (1u << 20)
#define RPC_MAX_METHOD 64u

enum rpc_framing { RPC_FRAMING_UNKNOWN = 0, RPC_FRAMING_PLAIN, RPC_FRAMING_LENGTH };
enum rpc_kind { RPC_REQUEST = 0, RPC_RESPONSE = 1, RPC_NOTIFY = 2 };

struct rpc_message {
    enum rpc_kind kind;
    uint32_t msgid;         /* not for RPC_NOTIFY */
    struct mp_value method; /* string or binary; not for RPC_RESPONSE */
    struct mp_value params; /* of any type: api_check_params() says what is wrong; not for RPC_RESPONSE */
    struct mp_value error, result; /* RPC_RESPONSE */
};

/*
 * The first whole message in p. WIRE_OK sets *ret_used (bytes to drop, framing included) and fills *ret_m,
 * which points into p. WIRE_INCOMPLETE: more bytes are needed; *ret_used is then the fewest that the first
 * message can have in all (framing included), and who waits for that many before asking again spends O(n) on
 * a message however small the pieces are that it comes in. WIRE_MALFORMED: the stream is beyond repair;
 * *ret_why says why. *framing is set by the first byte of the stream and kept by the caller.
 */
int rpc_read(const void *p, size_t n, enum rpc_framing *framing, struct rpc_message *ret_m, size_t *ret_used,
        const char **ret_why) MUST_USE;

/*
 * Writes a whole message in the given framing (UNKNOWN counts as PLAIN) around ready-made MessagePack values.
 * A message over RPC_MAX_MESSAGE is -EMSGSIZE in b, an error of the value's buffer is passed on; b then ends
 * where it did before.
 */
void rpc_put_request(struct buf *b, enum rpc_framing framing, uint32_t msgid, const char *method,
        const struct buf *params_map); /* NULL: no parameters */
void rpc_put_response(struct buf *b, enum rpc_framing framing, uint32_t msgid, const struct buf *error,
        const struct buf *result); /* one of them NULL: nil */
void rpc_put_notify(
        struct buf *b, enum rpc_framing framing, const char *method, const void *param, size_t param_len);

#endif
