#include <assert.h>
#include <errno.h>
#include <sodium.h>
#include <string.h>

#include "identity_keys.h"

#define RECORD_VERSION 1
#define SEED_LEN 32
#define FIRST_DEVICE 1u
#define SUITE 1u

/* Ed25519 keys are libsodium's 64 bytes: seed and public key. */
struct identity {
    uint8_t ak[64], dsk[64], rak[64];
    uint8_t dhk[KEY_LEN];
    const struct device *device; /* in list */
    struct device_list list;
    size_t entry_len;
    uint8_t entry[RELAY_MAX_ENTRY];
};

static const uint8_t *public_of(const uint8_t ed25519[64])
{
    return ed25519 + SEED_LEN;
}

static struct identity *allocate(void)
{
    struct identity *id = sodium_malloc(sizeof(*id));
    if (id)
        sodium_memzero(id, sizeof(*id));
    return id;
}

void identity_free(struct identity *id)
{
    sodium_free(id); /* wipes; accepts NULL */
}

static void generate_ed25519(const struct rng *rng, uint8_t ret_key[64])
{
    uint8_t seed[SEED_LEN], public[KEY_LEN];
    rng_fill(rng, seed, sizeof(seed));
    (void)crypto_sign_seed_keypair(public, ret_key, seed);
    sodium_memzero(seed, sizeof(seed));
}

static void put_own_device(struct buf *b, const struct identity *id)
{
    uint8_t dhk[KEY_LEN];
    x25519_public(id->dhk, dhk);
    buf_u32(b, FIRST_DEVICE);
    buf_bytes(b, public_of(id->dsk), KEY_LEN);
    buf_bytes(b, dhk, KEY_LEN);
    buf_bytes(b, public_of(id->rak), KEY_LEN);
    buf_u8(b, 1);
    buf_u16(b, SUITE);
}

static void put_first_body(struct buf *b, const struct identity *id, const char *name, uint64_t now_ms)
{
    buf_u8(b, 1);
    buf_bytes(b, public_of(id->ak), KEY_LEN);
    buf_lp(b, name, strlen(name));
    buf_u64(b, 1);
    buf_zero(b, LIST_HASH_LEN);
    buf_u64(b, now_ms);
    buf_u8(b, 1);
    put_own_device(b, id);
    buf_u8(b, 0);
}

static void make_entry(struct identity *id, const char *name, uint64_t now_ms)
{
    uint8_t signature[SIGNATURE_LEN];
    struct buf b = buf_over(id->entry, sizeof(id->entry));
    const uint8_t *body = id->entry + 4;
    size_t n;

    buf_u32(&b, 0);
    put_first_body(&b, id, name, now_ms);
    n = b.len - 4;
    buf_patch_u32(&b, 0, (uint32_t)n);
    label_sign(LABEL_DEVICE_LIST, body, n, id->ak, signature);
    buf_bytes(&b, signature, sizeof(signature));
    label_sign(LABEL_DEVICE_ENTRY, body, n, id->dsk, signature);
    buf_bytes(&b, signature, sizeof(signature));
    id->entry_len = b.len;
}

/* Reads the entry back, so that list is what everybody else will see. */
static int adopt_entry(struct identity *id, uint32_t device)
{
    int status = device_list_verify(id->entry, id->entry_len, &id->list);
    if (status)
        return status;
    id->device = device_list_find(&id->list, device);
    return id->device ? 0 : IDENTITY_MALFORMED;
}

int identity_new(const char *name, const struct rng *rng, uint64_t now_ms, struct identity **ret_id)
{
    struct identity *id;
    int status;

    if (!user_name_ok(name, strlen(name)))
        return IDENTITY_MALFORMED;
    id = allocate();
    if (!id)
        return -ENOMEM;
    generate_ed25519(rng, id->ak);
    generate_ed25519(rng, id->dsk);
    rng_fill(rng, id->dhk, sizeof(id->dhk));
    generate_ed25519(rng, id->rak);
    make_entry(id, name, now_ms);
    status = adopt_entry(id, FIRST_DEVICE);
    if (status) {
        identity_free(id);
        return status;
    }
    *ret_id = id;
    return 0;
}

void identity_save(const struct identity *id, struct buf *secret)
{
    buf_u8(secret, RECORD_VERSION);
    buf_u32(secret, id->device->address.device);
    buf_bytes(secret, id->ak, SEED_LEN);
    buf_bytes(secret, id->dsk, SEED_LEN);
    buf_bytes(secret, id->dhk, KEY_LEN);
    buf_bytes(secret, id->rak, SEED_LEN);
    buf_lp(secret, id->entry, id->entry_len);
}

static void read_ed25519(struct cursor *c, uint8_t ret_key[64])
{
    uint8_t seed[SEED_LEN], public[KEY_LEN];
    cursor_copy(c, seed, sizeof(seed));
    (void)crypto_sign_seed_keypair(public, ret_key, seed);
    sodium_memzero(seed, sizeof(seed));
}

static bool keys_match(const struct identity *id)
{
    uint8_t dhk[KEY_LEN];
    x25519_public(id->dhk, dhk);
    return sodium_memcmp(id->list.ak, public_of(id->ak), KEY_LEN) == 0 &&
           sodium_memcmp(id->device->dsk, public_of(id->dsk), KEY_LEN) == 0 &&
           sodium_memcmp(id->device->dhk, dhk, KEY_LEN) == 0 &&
           sodium_memcmp(id->device->rak, public_of(id->rak), KEY_LEN) == 0;
}

static int read_record(struct cursor *c, struct identity *id)
{
    const uint8_t *entry;
    uint32_t device;
    int status;

    if (cursor_u8(c) != RECORD_VERSION)
        return IDENTITY_MALFORMED;
    device = cursor_u32(c);
    read_ed25519(c, id->ak);
    read_ed25519(c, id->dsk);
    cursor_copy(c, id->dhk, KEY_LEN);
    read_ed25519(c, id->rak);
    entry = cursor_lp(c, sizeof(id->entry), &id->entry_len);
    if (!entry || cursor_end(c) != WIRE_OK)
        return IDENTITY_MALFORMED;
    memcpy(id->entry, entry, id->entry_len);
    status = adopt_entry(id, device);
    if (status < 0)
        return status;
    return status == 0 && keys_match(id) ? 0 : IDENTITY_MALFORMED;
}

int identity_load(const void *p, size_t n, struct identity **ret_id)
{
    struct identity *id = allocate();
    struct cursor c;
    int status;

    if (!id)
        return -ENOMEM;
    cursor_init(&c, p, n);
    status = read_record(&c, id);
    if (status) {
        identity_free(id);
        return status;
    }
    *ret_id = id;
    return 0;
}

const struct address *identity_address(const struct identity *id)
{
    return &id->device->address;
}

const char *identity_name(const struct identity *id)
{
    return id->list.name;
}

struct span identity_entry(const struct identity *id)
{
    return (struct span){id->entry, id->entry_len};
}

const struct device_list *identity_list(const struct identity *id)
{
    return &id->list;
}

const struct device *identity_device(const struct identity *id)
{
    return id->device;
}

bool identity_agree(const struct identity *id, const uint8_t public[KEY_LEN], uint8_t ret_shared[KEY_LEN])
{
    return x25519_agree(id->dhk, public, ret_shared);
}

void identity_sign(
        const struct identity *id, enum label label, struct span body, uint8_t ret_signature[SIGNATURE_LEN])
{
    label_sign(label, body.p, body.n, id->dsk, ret_signature);
}

/* The wire layer writes label and fields; what is signed there is below 1 KiB by its limits. */
#define RELAY_SIGNED_MAX 1024u

void identity_sign_auth(const struct identity *id, const uint8_t relay_nonce[RELAY_NONCE_LEN],
        const uint8_t *exporter, struct relay_auth *auth)
{
    uint8_t bytes[RELAY_SIGNED_MAX];
    struct buf b = buf_over(bytes, sizeof(bytes));

    auth->who = id->device->address;
    memcpy(auth->rak, public_of(id->rak), KEY_LEN);
    relay_auth_signed(&b, auth, relay_nonce, exporter);
    assert(b.error == 0);
    (void)crypto_sign_detached(auth->signature, NULL, b.data, b.len, id->rak);
}

void identity_sign_delete(
        const struct identity *id, const uint8_t relay_nonce[RELAY_NONCE_LEN], struct relay_unregister *m)
{
    uint8_t bytes[RELAY_SIGNED_MAX];
    struct buf b = buf_over(bytes, sizeof(bytes));

    relay_delete_signed(&b, relay_nonce, id->list.uid, m->time_ms);
    assert(b.error == 0);
    (void)crypto_sign_detached(m->signature, NULL, b.data, b.len, id->ak);
}
