/*
 * The log: one line per happening on standard error, or to the journal with structured fields when standard
 * error is the journal's. Never content, keys, or names of peers.
 */
#ifndef E2EE_LOG_H
#define E2EE_LOG_H

enum log_level {
    LOG_LEVEL_ERROR = 3,
    LOG_LEVEL_WARN = 4,
    LOG_LEVEL_NOTICE = 5,
    LOG_LEVEL_INFO = 6,
    LOG_LEVEL_DEBUG = 7
};

/* Program name for the lines; level above which nothing is written. Called once, before any thread. */
void log_init(const char *program, enum log_level max);
/* `event` is a short stable word (E2EED_EVENT in the journal), e.g. "link-down". */
void log_event(enum log_level level, const char *event, const char *fmt, ...)
        __attribute__((format(printf, 3, 4)));

#define log_error(event, ...) log_event(LOG_LEVEL_ERROR, event, __VA_ARGS__)
#define log_warn(event, ...) log_event(LOG_LEVEL_WARN, event, __VA_ARGS__)
#define log_notice(event, ...) log_event(LOG_LEVEL_NOTICE, event, __VA_ARGS__)
#define log_info(event, ...) log_event(LOG_LEVEL_INFO, event, __VA_ARGS__)
#define log_debug(event, ...) log_event(LOG_LEVEL_DEBUG, event, __VA_ARGS__)

#endif
