/* The daemon's configuration: defaults from the XDG directories, then the file, then the command line. */
#ifndef E2EE_CONFIG_H
#define E2EE_CONFIG_H

#include "base.h"
#include "engine.h"

#define CONFIG_MAX_PATH 512u
#define CONFIG_MAX_UIDS 16u

struct config {
    char account[65];
    char file[CONFIG_MAX_PATH];
    bool file_named; /* a file that was asked for must exist */
    char socket[CONFIG_MAX_PATH];
    char state_dir[CONFIG_MAX_PATH];
    char key_file[CONFIG_MAX_PATH];
    char credential[65];            /* "": only one that is there without being asked for */
    bool key_from_file;             /* no credential at all */
    uint32_t passphrase_memory_kib; /* what deriving a key from a new passphrase takes */
    char ca_file[CONFIG_MAX_PATH];  /* "": the system's authorities */
    char link_dir[CONFIG_MAX_PATH]; /* "": beside the program, then the installed place */
    struct engine_config engine;
    uid_t uids[CONFIG_MAX_UIDS];
    size_t n_uids;
    int log_level;
};

/*
 * Fills c for the account from $XDG_RUNTIME_DIR, $XDG_STATE_HOME, $XDG_CONFIG_HOME and $HOME. 0, or 1 with a
 * text that names what is missing.
 */
#define CONFIG_TEXT 1024
int config_defaults(struct config *c, const char *account, char ret_text[CONFIG_TEXT]) MUST_USE;
/* Reads the INI file over c. 0 (also where a default file does not exist), or 1 with a text naming file, line
 * and what is allowed. */
int config_read(struct config *c, char ret_text[CONFIG_TEXT]) MUST_USE;

#endif
