#include "memport.h"

#include <errno.h>
#include <string.h>

/* Level l holds about 4^-l of the records: enough for 4^10. */
#define LEVELS 10
/* The map's number goes before the key. */
#define NAME_MAX_LEN (1u + PORT_MAX_KEY)

struct node {
    uint8_t *value;
    size_t n;
    size_t name_len;
    int height;
    uint8_t name[NAME_MAX_LEN];
    struct node *next[];
};

struct list {
    struct node *head[LEVELS];
    size_t records;
    size_t bytes;
    uint64_t random;
};

enum change_kind { INSERTED, REPLACED, DELETED };

/* What undoes a write: a name for INSERTED, the old value for REPLACED, the unlinked node for DELETED. */
struct change {
    enum change_kind kind;
    struct node *node;
    uint8_t *old;
    size_t old_n;
};

struct memport {
    struct list list;
    struct change *changes;
    size_t change_count;
    size_t change_cap;
    bool dirty;
    int failed;
    unsigned scans;
    uint64_t counts[MEMPORT_OPS];
    uint64_t fail_in[MEMPORT_OPS];
    int fail_error[MEMPORT_OPS];
};

struct memport_snapshot {
    struct list list;
};

struct name {
    uint8_t data[NAME_MAX_LEN];
    size_t len;
};

static void *must(void *p)
{
    if (!p)
        abort();
    return p;
}

static uint8_t *copy_bytes(const void *p, size_t n)
{
    uint8_t *to = must(malloc(n > 0 ? n : 1));

    if (n > 0)
        memcpy(to, p, n);
    return to;
}

static struct name make_name(uint8_t map, const void *key, size_t key_len)
{
    struct name name = {.len = 1 + key_len};

    name.data[0] = map;
    if (key_len > 0)
        memcpy(name.data + 1, key, key_len);
    return name;
}

static int compare(const struct node *node, const struct name *name)
{
    size_t n = node->name_len < name->len ? node->name_len : name->len;
    int r = memcmp(node->name, name->data, n);

    if (r != 0)
        return r;
    return node->name_len < name->len ? -1 : node->name_len > name->len;
}

/*
 * The first node not below name; the links that lead to it on each level go to links, if given. A list built
 * by the same calls has the same shape every time.
 */
static struct node *find(struct list *l, const struct name *name, struct node **links[LEVELS])
{
    struct node **at = l->head;

    for (int level = LEVELS - 1; level >= 0; level--) {
        while (at[level] && compare(at[level], name) < 0)
            at = at[level]->next;
        if (links)
            links[level] = &at[level];
    }
    return at[0];
}

static struct node *find_exact(struct list *l, const struct name *name)
{
    struct node *node = find(l, name, NULL);

    return node && compare(node, name) == 0 ? node : NULL;
}

/* xorshift64 (Marsaglia 2003). */
static int random_height(struct list *l)
{
    int height = 1;

    l->random ^= l->random << 13;
    l->random ^= l->random >> 7;
    l->random ^= l->random << 17;
    for (uint64_t r = l->random; height < LEVELS && (r & 3) == 0; r >>= 2)
        height++;
    return height;
}

static struct node *node_new(struct list *l, const struct name *name, const void *value, size_t n)
{
    int height = random_height(l);
    struct node *node = must(calloc(1, sizeof(*node) + (size_t)height * sizeof(node->next[0])));

    node->height = height;
    node->name_len = name->len;
    memcpy(node->name, name->data, name->len);
    node->value = copy_bytes(value, n);
    node->n = n;
    return node;
}

static void node_free(struct node *node)
{
    free(node->value);
    free(node);
}

static struct name name_of(const struct node *node)
{
    return make_name(node->name[0], node->name + 1, node->name_len - 1);
}

static void link_node(struct list *l, struct node *node)
{
    struct node **links[LEVELS];
    struct name name = name_of(node);

    (void)find(l, &name, links);
    for (int i = 0; i < node->height; i++) {
        node->next[i] = *links[i];
        *links[i] = node;
    }
    l->records++;
    l->bytes += node->name_len - 1 + node->n;
}

static void unlink_node(struct list *l, struct node *node)
{
    struct node **links[LEVELS];
    struct name name = name_of(node);

    (void)find(l, &name, links);
    for (int i = 0; i < node->height; i++)
        *links[i] = node->next[i];
    l->records--;
    l->bytes -= node->name_len - 1 + node->n;
}

/* Takes value over; returns the old one. */
static uint8_t *swap_value(struct list *l, struct node *node, uint8_t *value, size_t n)
{
    uint8_t *old = node->value;

    l->bytes += n;
    l->bytes -= node->n;
    node->value = value;
    node->n = n;
    return old;
}

static void list_init(struct list *l)
{
    *l = (struct list){.random = UINT64_C(0x9e3779b97f4a7c15)};
}

static void list_done(struct list *l)
{
    struct node *node = l->head[0];

    while (node) {
        struct node *next = node->next[0];
        node_free(node);
        node = next;
    }
    list_init(l);
}

static void list_copy(struct list *to, const struct list *from)
{
    list_init(to);
    for (const struct node *node = from->head[0]; node; node = node->next[0]) {
        struct name name = name_of(node);
        link_node(to, node_new(to, &name, node->value, node->n));
    }
}

struct memport *memport_new(void)
{
    struct memport *mp = must(calloc(1, sizeof(*mp)));

    list_init(&mp->list);
    return mp;
}

void memport_free(struct memport *mp)
{
    if (!mp)
        return;
    memport_rollback(mp);
    list_done(&mp->list);
    free(mp->changes);
    free(mp);
}

static void remember(struct memport *mp, struct change change)
{
    if (mp->change_count == mp->change_cap) {
        mp->change_cap = mp->change_cap > 0 ? 2 * mp->change_cap : 64;
        mp->changes = must(realloc(mp->changes, mp->change_cap * sizeof(*mp->changes)));
    }
    mp->changes[mp->change_count++] = change;
}

/* Counts the call; the sticky or planted failure, if there is one. */
static int enter(struct memport *mp, enum memport_op op)
{
    int r;

    mp->counts[op]++;
    if (mp->failed)
        return mp->failed;
    if (mp->fail_in[op] == 0 || --mp->fail_in[op] > 0)
        return 0;
    r = mp->fail_error[op];
    if (op == MEMPORT_PUT || op == MEMPORT_DEL)
        mp->dirty = true;
    if (mp->dirty)
        mp->failed = r;
    return r;
}

static int mem_get(void *ctx, uint8_t map, const void *key, size_t key_len, struct buf *value)
{
    struct memport *mp = ctx;
    struct name name;
    const struct node *node;
    int r = enter(mp, MEMPORT_GET);

    buf_reset(value);
    if (r == 0 && key_len > PORT_MAX_KEY)
        r = -EINVAL;
    if (r != 0)
        return r;
    name = make_name(map, key, key_len);
    node = find_exact(&mp->list, &name);
    if (!node)
        return PORT_NOT_FOUND;
    buf_bytes(value, node->value, node->n);
    r = buf_status(value);
    if (r != 0)
        buf_reset(value);
    return r;
}

static int may_write(struct memport *mp, size_t key_len, size_t n)
{
    if (key_len > PORT_MAX_KEY)
        return -EINVAL;
    if (n > MEMPORT_MAX_VALUE)
        return -EMSGSIZE;
    if (mp->scans > 0)
        return -EBUSY;
    mp->dirty = true;
    return 0;
}

static int mem_put(void *ctx, uint8_t map, const void *key, size_t key_len, const void *value, size_t n)
{
    struct memport *mp = ctx;
    struct name name;
    struct node *node;
    int r = enter(mp, MEMPORT_PUT);

    if (r == 0)
        r = may_write(mp, key_len, n);
    if (r != 0)
        return r;
    name = make_name(map, key, key_len);
    node = find_exact(&mp->list, &name);
    if (node) {
        size_t old_n = node->n;
        uint8_t *old = swap_value(&mp->list, node, copy_bytes(value, n), n);
        remember(mp, (struct change){.kind = REPLACED, .node = node, .old = old, .old_n = old_n});
    } else {
        node = node_new(&mp->list, &name, value, n);
        link_node(&mp->list, node);
        remember(mp, (struct change){.kind = INSERTED, .node = node});
    }
    return 0;
}

static int mem_del(void *ctx, uint8_t map, const void *key, size_t key_len)
{
    struct memport *mp = ctx;
    struct name name;
    struct node *node;
    int r = enter(mp, MEMPORT_DEL);

    if (r == 0)
        r = may_write(mp, key_len, 0);
    if (r != 0)
        return r;
    name = make_name(map, key, key_len);
    node = find_exact(&mp->list, &name);
    if (node) {
        unlink_node(&mp->list, node);
        remember(mp, (struct change){.kind = DELETED, .node = node});
    }
    return 0;
}

/* On copies of the exact size, gone after the call. */
static int visit_node(const struct node *node, port_visit visit, void *visit_ctx)
{
    uint8_t *key = copy_bytes(node->name + 1, node->name_len - 1);
    uint8_t *value = copy_bytes(node->value, node->n);
    int r = visit(visit_ctx, key, node->name_len - 1, value, node->n);

    free(key);
    free(value);
    return r;
}

static int mem_scan(void *ctx, uint8_t map, const void *from, size_t from_len, size_t prefix_len,
        port_visit visit, void *visit_ctx)
{
    struct memport *mp = ctx;
    struct name name;
    int r = enter(mp, MEMPORT_SCAN);

    if (r == 0 && (from_len > PORT_MAX_KEY || prefix_len > from_len))
        r = -EINVAL;
    if (r == 0 && mp->scans >= MEMPORT_SCAN_DEPTH)
        r = -EBUSY;
    if (r != 0)
        return r;
    name = make_name(map, from, from_len);
    mp->scans++;
    for (const struct node *node = find(&mp->list, &name, NULL); r == 0 && node; node = node->next[0]) {
        if (node->name_len < 1 + prefix_len || memcmp(node->name, name.data, 1 + prefix_len) != 0)
            break;
        r = visit_node(node, visit, visit_ctx);
    }
    mp->scans--;
    return r;
}

static int mem_last(void *ctx, uint8_t map, uint8_t ret_key[PORT_MAX_KEY], size_t *ret_len)
{
    struct memport *mp = ctx;
    struct node *const *at = mp->list.head;
    const struct node *last = NULL;
    int r = enter(mp, MEMPORT_LAST);

    if (r != 0)
        return r;
    for (int level = LEVELS - 1; level >= 0; level--) {
        while (at[level] && at[level]->name[0] <= map) {
            last = at[level];
            at = at[level]->next;
        }
    }
    if (!last || last->name[0] != map)
        return PORT_NOT_FOUND;
    memcpy(ret_key, last->name + 1, last->name_len - 1);
    *ret_len = last->name_len - 1;
    return 0;
}

struct port memport_port(struct memport *mp)
{
    return (struct port){
            .ctx = mp, .get = mem_get, .put = mem_put, .del = mem_del, .scan = mem_scan, .last = mem_last};
}

static void forget_changes(struct memport *mp)
{
    for (size_t i = 0; i < mp->change_count; i++) {
        if (mp->changes[i].kind == DELETED)
            node_free(mp->changes[i].node);
        free(mp->changes[i].old);
    }
    mp->change_count = 0;
    mp->dirty = false;
    mp->failed = 0;
}

int memport_commit(struct memport *mp)
{
    int r;

    if (mp->scans > 0)
        return -EBUSY;
    if (!mp->dirty)
        return 0;
    r = enter(mp, MEMPORT_COMMIT);
    if (r != 0) {
        memport_rollback(mp);
        return r;
    }
    forget_changes(mp);
    return 0;
}

static void undo(struct list *l, struct change *change)
{
    switch (change->kind) {
    case INSERTED:
        unlink_node(l, change->node);
        node_free(change->node);
        break;
    case REPLACED:
        free(swap_value(l, change->node, change->old, change->old_n));
        break;
    case DELETED:
        link_node(l, change->node);
        break;
    }
}

void memport_rollback(struct memport *mp)
{
    while (mp->change_count > 0)
        undo(&mp->list, &mp->changes[--mp->change_count]);
    mp->dirty = false;
    mp->failed = 0;
}

bool memport_dirty(const struct memport *mp)
{
    return mp->dirty;
}

/* The same on a copy of the list, which shares no node with the turn's. */
static void undo_copied(struct list *l, const struct change *change)
{
    struct name name = name_of(change->node);
    struct node *node = find_exact(l, &name);

    switch (change->kind) {
    case INSERTED:
        unlink_node(l, node);
        node_free(node);
        break;
    case REPLACED:
        free(swap_value(l, node, copy_bytes(change->old, change->old_n), change->old_n));
        break;
    case DELETED:
        link_node(l, node_new(l, &name, change->node->value, change->node->n));
        break;
    }
}

struct memport_snapshot *memport_snapshot(const struct memport *mp)
{
    struct memport_snapshot *snapshot = must(malloc(sizeof(*snapshot)));

    list_copy(&snapshot->list, &mp->list);
    for (size_t i = mp->change_count; i > 0; i--)
        undo_copied(&snapshot->list, &mp->changes[i - 1]);
    return snapshot;
}

void memport_restore(struct memport *mp, const struct memport_snapshot *snapshot)
{
    memport_rollback(mp);
    list_done(&mp->list);
    list_copy(&mp->list, &snapshot->list);
}

void memport_snapshot_free(struct memport_snapshot *snapshot)
{
    if (!snapshot)
        return;
    list_done(&snapshot->list);
    free(snapshot);
}

void memport_fail(struct memport *mp, enum memport_op op, uint64_t k, int error)
{
    mp->fail_in[op] = k;
    mp->fail_error[op] = error;
}

uint64_t memport_count(const struct memport *mp, enum memport_op op)
{
    return mp->counts[op];
}

size_t memport_records(const struct memport *mp)
{
    return mp->list.records;
}

size_t memport_bytes(const struct memport *mp)
{
    return mp->list.bytes;
}
