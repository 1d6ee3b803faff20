#include <string.h>

#include "identity.h"
#include "kdf.h"

void uid_of_account_key(const uint8_t ak[32], uint8_t ret_uid[UID_LEN])
{
    crypto_generichash_state st;
    (void)crypto_generichash_init(&st, NULL, 0, UID_LEN);
    (void)crypto_generichash_update(
            &st, (const uint8_t *)label_table[LABEL_UID].text, label_table[LABEL_UID].n);
    (void)crypto_generichash_update(&st, ak, KEY_LEN);
    (void)crypto_generichash_final(&st, ret_uid, UID_LEN);
}

static bool signatures_ok(const struct entry *e)
{
    if (!label_verify(LABEL_DEVICE_LIST, e->body.p, e->body.n, e->ak, e->ak_signature))
        return false;
    for (size_t i = 0; i < e->devices; i++) {
        const uint8_t *signature = e->dsk_signatures + i * SIGNATURE_LEN;
        if (!label_verify(LABEL_DEVICE_ENTRY, e->body.p, e->body.n, e->device[i].dsk, signature))
            return false;
    }
    return true;
}

static void copy_device(const struct entry_device *from, const struct device_list *list, struct device *to)
{
    struct hash h;

    memcpy(to->address.uid, list->uid, UID_LEN);
    to->address.device = from->device;
    to->list_n = list->n;
    memcpy(to->dsk, from->dsk, sizeof(to->dsk));
    memcpy(to->dhk, from->dhk, sizeof(to->dhk));
    memcpy(to->rak, from->rak, sizeof(to->rak));
    to->suites = from->suites;
    memcpy(to->suite, from->suite, sizeof(to->suite));
    hash_begin(&h, LABEL_DEVICE_HASH);
    hash_bytes(&h, list->uid, UID_LEN);
    hash_bytes(&h, from->bytes.p, from->bytes.n);
    hash_end(&h, to->hash);
}

static void copy_list(const struct entry *e, struct device_list *to)
{
    struct hash h;

    memset(to, 0, sizeof(*to));
    uid_of_account_key(e->ak, to->uid);
    memcpy(to->ak, e->ak, sizeof(to->ak));
    memcpy(to->name, e->name.p, e->name.n);
    to->n = e->n;
    memcpy(to->previous, e->previous, sizeof(to->previous));
    hash_begin(&h, LABEL_DEVICE_LIST_HASH);
    hash_bytes(&h, e->body.p, e->body.n);
    hash_end(&h, to->hash);
    to->devices = e->devices;
    for (size_t i = 0; i < e->devices; i++)
        copy_device(&e->device[i], to, &to->device[i]);
}

static int verify(struct span bytes, struct entry *ret_entry, struct device_list *ret_list)
{
    if (entry_parse(bytes.p, bytes.n, ret_entry) != WIRE_OK)
        return IDENTITY_MALFORMED;
    if (!signatures_ok(ret_entry))
        return IDENTITY_BAD_SIGNATURE;
    copy_list(ret_entry, ret_list);
    return 0;
}

int device_list_verify(const void *entry, size_t n, struct device_list *ret_list)
{
    struct entry e;
    return verify((struct span){entry, n}, &e, ret_list);
}

const struct device *device_list_find(const struct device_list *list, uint32_t device)
{
    for (size_t i = 0; i < list->devices; i++)
        if (list->device[i].address.device == device)
            return &list->device[i];
    return NULL;
}

static bool is_revoked(const struct entry *e, uint32_t device)
{
    for (size_t i = 0; i < e->revoked; i++)
        if (e->revoked_device[i] == device)
            return true;
    return false;
}

/* A number that was revoked stays so, which also keeps it from the devices: entry_parse() saw to that. */
static bool keeps_revoked(const struct entry *before, const struct entry *e)
{
    for (size_t i = 0; i < before->revoked; i++)
        if (!is_revoked(e, before->revoked_device[i]))
            return false;
    return true;
}

struct link {
    struct entry entry;
    struct device_list list;
};

static int check_successor(const struct link *before, const struct link *now)
{
    if (now->list.n != before->list.n + 1)
        return now->list.n > before->list.n ? IDENTITY_GAP : IDENTITY_MALFORMED;
    if (memcmp(now->list.previous, before->list.hash, LIST_HASH_LEN) != 0)
        return IDENTITY_FORK;
    if (strcmp(now->list.name, before->list.name) != 0 || !keeps_revoked(&before->entry, &now->entry))
        return IDENTITY_MALFORMED;
    return 0;
}

/* How an entry stands to the pinned one: the pinned itself, right after it, or earlier. */
static int check_pinned(
        const struct device_list *list, bool first, uint64_t n, const uint8_t hash[LIST_HASH_LEN])
{
    if (list->n == n && memcmp(list->hash, hash, LIST_HASH_LEN) != 0)
        return IDENTITY_FORK;
    if (!first || list->n <= n)
        return 0;
    if (list->n > n + 1)
        return IDENTITY_GAP;
    return memcmp(list->previous, hash, LIST_HASH_LEN) == 0 ? 0 : IDENTITY_FORK;
}

static int verify_owned(struct span bytes, const uint8_t uid[UID_LEN], struct link *ret_link)
{
    int status = verify(bytes, &ret_link->entry, &ret_link->list);
    if (status)
        return status;
    return memcmp(ret_link->list.uid, uid, UID_LEN) == 0 ? 0 : IDENTITY_MALFORMED;
}

static int walk(const uint8_t uid[UID_LEN], uint64_t pinned_n, const uint8_t pinned_hash[LIST_HASH_LEN],
        const struct span *entries, size_t count, struct link links[2])
{
    for (size_t i = 0; i < count; i++) {
        struct link *now = &links[i % 2];
        int status = verify_owned(entries[i], uid, now);
        if (!status && i > 0)
            status = check_successor(&links[(i + 1) % 2], now);
        if (!status)
            status = check_pinned(&now->list, i == 0, pinned_n, pinned_hash);
        if (status)
            return status;
    }
    return links[(count + 1) % 2].list.n < pinned_n ? IDENTITY_ROLLBACK : 0;
}

int device_list_advance(const uint8_t uid[UID_LEN], uint64_t pinned_n,
        const uint8_t pinned_hash[LIST_HASH_LEN], const struct span *entries, size_t count,
        struct device_list *ret_list)
{
    struct link links[2];
    int status;

    if (count < 1 || count > RELAY_MAX_ENTRIES)
        return IDENTITY_MALFORMED;
    if (pinned_n == 0) {
        entries += count - 1;
        count = 1;
        status = verify_owned(entries[0], uid, &links[0]);
    } else {
        status = walk(uid, pinned_n, pinned_hash, entries, count, links);
    }
    if (status == 0)
        *ret_list = links[(count + 1) % 2].list;
    return status;
}
