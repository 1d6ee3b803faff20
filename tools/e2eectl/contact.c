#include <stdio.h>
#include <string.h>

#include "cli.h"

static const char *trust_of(const struct e2eectl_value *contact)
{
    if (e2eectl_get_bool(contact, "blocked", false))
        return "blocked";
    if (e2eectl_get_string(contact, "new_uid"))
        return "KEY CHANGED";
    if (e2eectl_get_bool(contact, "held", false))
        return "held";
    return e2eectl_get_bool(contact, "verified", false) ? "verified" : "unverified";
}

static int run_list(struct cli *c, const void *args, char **operands, int n)
{
    CLEANUP_VALUE struct e2eectl_value *list = NULL;
    const struct e2eectl_value *v;
    int r = cli_connect(c);

    (void)args;
    (void)operands;
    (void)n;
    if (r)
        return r;
    r = e2eectl_contact_list(c->h, &list);
    if (r)
        return fail_call(c, r);
    for (v = e2eectl_value_first(e2eectl_value_get(list, "contacts")); v; v = e2eectl_value_next(v)) {
        const char *user = e2eectl_get_string(v, "user"), *trust = trust_of(v);

        if (c->json) {
            out_json(v);
            continue;
        }
        out_style(c, strcmp(trust, "verified") == 0      ? STYLE_GOOD
                     : strcmp(trust, "KEY CHANGED") == 0 ? STYLE_BAD
                                                         : STYLE_NONE);
        (void)printf("%-12s", trust);
        out_style(c, STYLE_NONE);
        out_string(user ? user : "?");
        (void)putchar('\n');
    }
    return 0;
}

static int run_show(struct cli *c, const void *args, char **operands, int n)
{
    CLEANUP_VALUE struct e2eectl_value *contact = NULL;
    int r = cli_connect(c);

    (void)args;
    (void)n;
    if (r)
        return r;
    r = e2eectl_contact_show(c->h, operands[0], &contact);
    if (r)
        return fail_call(c, r);
    out_result(c, contact);
    return 0;
}

struct uid_args {
    const char *uid, *policy;
};

static int run_add(struct cli *c, const void *args, char **operands, int n)
{
    const struct uid_args *a = args;
    CLEANUP_VALUE struct e2eectl_value *contact = NULL;
    int r = cli_connect(c);

    (void)n;
    if (r)
        return r;
    r = e2eectl_contact_add(c->h, operands[0], a->uid, &contact);
    if (r)
        return fail_call(c, r);
    out_result(c, contact);
    return 0;
}

/* What to compare, and how to go on. */
static int show_number(struct cli *c, const char *user)
{
    CLEANUP_VALUE struct e2eectl_value *contact = NULL;
    const char *number;
    int r = e2eectl_contact_show(c->h, user, &contact);

    if (r)
        return fail_call(c, r);
    if (c->json) {
        out_json(contact);
        return 0;
    }
    number = e2eectl_get_string(contact, "safety_number");
    (void)printf("The safety number that you and ");
    out_string(user);
    (void)printf(" must both see:\n\n  ");
    out_string(number ? number : "-");
    (void)printf("\n\nLet the other side read theirs out, in person or by voice, then give it here:\n  "
                 "e2eectl contact verify ");
    out_string(user);
    (void)printf(" NUMBER\n");
    return 0;
}

static int run_verify(struct cli *c, const void *args, char **operands, int n)
{
    char number[E2EECTL_ID_SIZE] = "";
    size_t len = 0;
    int r;

    (void)args;
    for (int i = 1; i < n; i++) {
        int more = snprintf(number + len, sizeof(number) - len, "%s%s", len ? " " : "", operands[i]);

        if (strspn(operands[i], "0123456789 ") != strlen(operands[i]) || more < 0 ||
                (size_t)more >= sizeof(number) - len)
            return args_error(c, "NUMBER is the digits of the safety number, not '%s'", operands[i]);
        len += (size_t)more;
    }
    r = cli_connect(c);
    if (r)
        return r;
    if (len == 0)
        return show_number(c, operands[0]);
    r = e2eectl_contact_verify(c->h, operands[0], number);
    return r ? fail_call(c, r) : 0;
}

/* A changed key is accepted by its uid only, so that nobody accepts another than he has looked at. */
static int refuse_change(struct cli *c, const char *user, bool *ret_refused)
{
    CLEANUP_VALUE struct e2eectl_value *contact = NULL;
    const char *uid, *fingerprint;
    int r = e2eectl_contact_show(c->h, user, &contact);

    if (r)
        return fail_call(c, r);
    uid = e2eectl_get_string(contact, "new_uid");
    fingerprint = e2eectl_get_string(contact, "new_fingerprint");
    if (!uid)
        return 0;
    *ret_refused = true;
    return fail(c, EX_NOPERM,
            "the key of %s has changed. Its fingerprint is now\n%s\nAsk %s by another way. If that is right: "
            "e2eectl contact trust %s --uid %s",
            user, fingerprint ? fingerprint : "-", user, user, uid);
}

static int run_trust(struct cli *c, const void *args, char **operands, int n)
{
    const struct uid_args *a = args;
    bool refused = false;
    int r = cli_connect(c);

    (void)n;
    if (r == 0 && !a->uid)
        r = refuse_change(c, operands[0], &refused);
    if (r || refused)
        return r;
    r = e2eectl_contact_trust(c->h, operands[0], a->uid, a->policy);
    return r ? fail_call(c, r) : 0;
}

static int set_blocked(struct cli *c, const char *user, bool blocked)
{
    int r = cli_connect(c);

    if (r)
        return r;
    r = e2eectl_contact_block(c->h, user, blocked);
    return r ? fail_call(c, r) : 0;
}

static int run_block(struct cli *c, const void *args, char **operands, int n)
{
    (void)args;
    (void)n;
    return set_blocked(c, operands[0], true);
}

static int run_unblock(struct cli *c, const void *args, char **operands, int n)
{
    (void)args;
    (void)n;
    return set_blocked(c, operands[0], false);
}

static int run_remove(struct cli *c, const void *args, char **operands, int n)
{
    int r = cli_connect(c);

    (void)args;
    (void)n;
    if (r)
        return r;
    r = e2eectl_contact_remove(c->h, operands[0]);
    return r ? fail_call(c, r) : 0;
}

static const struct opt add_options[] = {
        {"uid", OPT_STRING, offsetof(struct uid_args, uid), "UID", "only if the user has this uid", 0, NULL},
        {NULL, OPT_FLAG, 0, NULL, NULL, 0, NULL},
};
static const struct opt trust_options[] = {
        {"uid", OPT_STRING, offsetof(struct uid_args, uid), "UID", "the new uid, when the key has changed", 0,
                NULL},
        {"policy", OPT_CHOICE, offsetof(struct uid_args, policy), "P",
                "at the next change of the key: block, hold or accept", 0, "block|hold|accept"},
        {NULL, OPT_FLAG, 0, NULL, NULL, 0, NULL},
};

static const struct verb contact_verbs[] = {
        {.name = "list", .summary = "all contacts and how far they are trusted", .run = run_list},
        {.name = "show",
                .operands = "USER",
                .summary = "one contact with fingerprint and safety number",
                .run = run_show},
        {.name = "add",
                .operands = "USER",
                .summary = "look a user up and remember the key",
                .options = add_options,
                .args_size = sizeof(struct uid_args),
                .run = run_add},
        {.name = "verify",
                .operands = "USER [NUMBER...]",
                .summary = "mark the key as verified by the safety number",
                .help = "Without NUMBER it shows the number to compare. NUMBER is the one that the other "
                        "side reads out; if it differs, nothing is "
                        "marked and the exit code is 77.",
                .run = run_verify},
        {.name = "trust",
                .operands = "USER",
                .summary = "accept a stranger who was held, or a changed key",
                .options = trust_options,
                .args_size = sizeof(struct uid_args),
                .run = run_trust},
        {.name = "block",
                .operands = "USER",
                .summary = "take no more messages from the contact, send none",
                .run = run_block},
        {.name = "unblock", .operands = "USER", .summary = "undo block", .run = run_unblock},
        {.name = "remove",
                .operands = "USER",
                .summary = "forget the contact, its key and its sessions",
                .run = run_remove},
        {.name = NULL},
};

const struct verb verb_contact = {
        .name = "contact",
        .summary = "contacts: list, show, add, verify, trust, block, unblock, remove",
        .help = "USER is a user name or a uid.",
        .verbs = contact_verbs,
};
