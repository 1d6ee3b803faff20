#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "cli.h"

static const struct {
    int code;
    const char *text;
} exits[] = {
        {EX_OK, "done"},
        {EX_USAGE, "wrong arguments"},
        {EX_DATAERR, "the text, file or JSON given is not acceptable"},
        {EX_NOINPUT, "a file to be sent cannot be read"},
        {EX_NOUSER, "no such user or contact"},
        {EX_UNAVAILABLE, "the daemon is not running or not healthy, or the message failed"},
        {EX_SOFTWARE, "an error inside e2eed"},
        {EX_OSERR, "the system refused (memory, descriptors)"},
        {EX_CANTCREAT, "the account exists already, or its name is taken"},
        {EX_IOERR, "output or the daemon's disk cannot be written"},
        {EX_TEMPFAIL, "try again later: offline, locked, a timeout, a limit"},
        {EX_NOPERM, "blocked, key changed, not verified, wrong passphrase, or not permitted"},
        {EX_CONFIG, "there is no account yet"},
};

/*
 * Every error of the library, the exit code that it becomes, and what to do where the message does not say
 * it.
 */
static const struct {
    int error, exit;
    const char *hint;
} errors[] = {
        {E2EECTL_ERR_PARSE_ERROR, EX_SOFTWARE, NULL},
        {E2EECTL_ERR_METHOD_NOT_FOUND, EX_USAGE, "'e2eectl api api_info' lists the methods"},
        {E2EECTL_ERR_INVALID_PARAMS, EX_USAGE, NULL},
        {E2EECTL_ERR_TOO_LARGE, EX_DATAERR, NULL},
        {E2EECTL_ERR_INVALID_NAME, EX_USAGE, NULL},
        {E2EECTL_ERR_NO_ACCOUNT, EX_CONFIG, "make one with: e2eectl init USER"},
        {E2EECTL_ERR_ACCOUNT_EXISTS, EX_CANTCREAT, NULL},
        {E2EECTL_ERR_NAME_TAKEN, EX_CANTCREAT, NULL},
        {E2EECTL_ERR_UNKNOWN_USER, EX_NOUSER, NULL},
        {E2EECTL_ERR_UNKNOWN_CONTACT, EX_NOUSER, NULL},
        {E2EECTL_ERR_UNKNOWN_MESSAGE, EX_DATAERR, NULL},
        {E2EECTL_ERR_NOT_CONNECTED, EX_TEMPFAIL, NULL},
        {E2EECTL_ERR_KEY_CHANGED, EX_NOPERM, "'e2eectl contact show USER' shows both keys"},
        {E2EECTL_ERR_NOT_VERIFIED, EX_NOPERM, "compare keys with: e2eectl contact verify USER"},
        {E2EECTL_ERR_VERIFY_MISMATCH, EX_NOPERM, NULL},
        {E2EECTL_ERR_BLOCKED, EX_NOPERM, NULL},
        {E2EECTL_ERR_QUEUE_FULL, EX_TEMPFAIL, NULL},
        {E2EECTL_ERR_RATE_LIMITED, EX_TEMPFAIL, NULL},
        {E2EECTL_ERR_TIMEOUT, EX_TEMPFAIL, NULL},
        {E2EECTL_ERR_RELAY_REFUSED, EX_UNAVAILABLE, NULL},
        {E2EECTL_ERR_TOKEN_REQUIRED, EX_NOPERM,
                "give the relay's token with: e2eectl init USER --token TOKEN"},
        {E2EECTL_ERR_REGISTRATION_CLOSED, EX_NOPERM, NULL},
        {E2EECTL_ERR_EXPIRED, EX_TEMPFAIL, NULL},
        {E2EECTL_ERR_ID_CONFLICT, EX_DATAERR, NULL},
        {E2EECTL_ERR_STORAGE, EX_IOERR, NULL},
        {E2EECTL_ERR_DISK_FULL, EX_IOERR, NULL},
        {E2EECTL_ERR_FORBIDDEN, EX_NOPERM, NULL},
        {E2EECTL_ERR_SHUTTING_DOWN, EX_TEMPFAIL, NULL},
        {E2EECTL_ERR_INTERNAL, EX_SOFTWARE, NULL},
        {E2EECTL_ERR_LOCKED, EX_TEMPFAIL, NULL},
        {E2EECTL_ERR_WRONG_PASSPHRASE, EX_NOPERM, NULL},
        {-ENOENT, EX_UNAVAILABLE, NULL},
        {-ENOTDIR, EX_UNAVAILABLE, NULL},
        {-ECONNREFUSED, EX_UNAVAILABLE, NULL},
        {-ECONNRESET, EX_UNAVAILABLE,
                "the daemon stopped or was restarted; what was under way may have been done"},
        {-ETIMEDOUT, EX_TEMPFAIL, NULL},
        {-EAGAIN, EX_TEMPFAIL, NULL},
        {-EACCES, EX_NOPERM, NULL},
        {-EPERM, EX_NOPERM, NULL},
        {-ENAMETOOLONG, EX_USAGE, NULL},
        {-EINVAL, EX_DATAERR, NULL},
        {-EILSEQ, EX_DATAERR, NULL},
        {-EMSGSIZE, EX_DATAERR, NULL},
        {-ERANGE, EX_DATAERR, NULL},
        {-ENOMEM, EX_OSERR, NULL},
        {-EMFILE, EX_OSERR, NULL},
        {-ENFILE, EX_OSERR, NULL},
};

/* Reasons of messages that failed. */
static const struct {
    const char *reason;
    int exit;
} reasons[] = {
        {"key_changed", EX_NOPERM},
        {"blocked", EX_NOPERM},
        {"not_verified", EX_NOPERM},
        {"contact_removed", EX_NOUSER},
        {"unknown_user", EX_NOUSER},
        {"not_connected", EX_TEMPFAIL},
};

int exit_of(int result)
{
    if (result == 0)
        return EX_OK;
    for (size_t i = 0; i < COUNT_OF(errors); i++) {
        if (errors[i].error == result)
            return errors[i].exit;
    }
    return EX_SOFTWARE;
}

const char *exit_hint(int result)
{
    for (size_t i = 0; i < COUNT_OF(errors); i++) {
        if (errors[i].error == result)
            return errors[i].hint;
    }
    return NULL;
}

int exit_of_reason(const char *state, const char *reason)
{
    if (strcmp(state, "expired") == 0)
        return EX_TEMPFAIL;
    if (strcmp(state, "failed") != 0)
        return EX_OK;
    for (size_t i = 0; reason && i < COUNT_OF(reasons); i++) {
        if (strcmp(reasons[i].reason, reason) == 0)
            return reasons[i].exit;
    }
    return EX_UNAVAILABLE;
}

void exits_print(void)
{
    for (size_t i = 0; i < COUNT_OF(exits); i++)
        (void)printf("  %2d  %s\n", exits[i].code, exits[i].text);
}
