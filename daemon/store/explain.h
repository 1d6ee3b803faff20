/* Texts that tell a person why the state cannot be opened. */
#ifndef E2EE_EXPLAIN_H
#define E2EE_EXPLAIN_H

/* Formats into this thread's buffer (cut off at 1,023 bytes) and points *ret_text at it. */
void explain(const char **ret_text, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
