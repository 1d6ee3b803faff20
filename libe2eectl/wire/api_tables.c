#include "api.h"

/*
 * One line a field: name, type, required, max, since, text, choices. Rows are read by people more often than
 * they are changed, so they keep their own layout.
 */
/* clang-format off */
#define V1 "0.1"
#define DAY30 API_MAX_TTL_MS
#define END {.name = NULL}

/* Parameters. */
#define REQ(name, type, max, text) {name, type, true, max, V1, text, NULL}
#define OPT(name, type, max, text) {name, type, false, max, V1, text, NULL}
#define OPT_OF(name, type, max, text, choices) {name, type, false, max, V1, text, choices}
/* Fields of results and events: always there, or only sometimes. */
#define HAS(name, type, text) {name, type, true, 0, V1, text, NULL}
#define HAS_OF(name, text, choices) {name, API_STRING, true, 0, V1, text, choices}
#define MAY(name, type, text) {name, type, false, 0, V1, text, NULL}

static const char *const key_sources[] = {"file", "credential", "passphrase", NULL};
static const char *const lock_states[] = {"locked", "unlocked", NULL};
static const char *const error_styles[] = {"array", "map", "string", NULL};
static const char *const link_states[] = {"none", "offline", "connecting", "online", "locked", NULL};
static const char *const until_states[] = {"sent", "delivered", "read", NULL};
static const char *const send_states[] = {"queued", "sent", "delivered", "read", "expired", "failed", NULL};
static const char *const ack_states[] = {"sent", "delivered", "read", "expired", "failed", NULL};
static const char *const policies[] = {"block", "hold", "accept", NULL};
static const char *const session_kinds[] = {"none", "weak", "strong", NULL};
static const char *const event_types[] = {"connected", "disconnected", "error", "message", "message_ack", "key_changed",
        "session_reset", "raw", "gap", NULL};

static const struct api_field none[] = {END};

static const struct api_field hello_params[] = {
    OPT("client", API_STRING, API_MAX_NAME, "Name and version of the calling program, for the daemon's log."),
    OPT_OF("errors", API_STRING, 16, "Form of errors on this connection: array is [class, \"NAME: text\"] (the default), map is {code, name, message, …}, string is \"NAME: text\".", error_styles),
    END};
static const struct api_field hello_result[] = {
    HAS("version", API_STRING, "The daemon's release."),
    HAS("api", API_UINT, "Number of this API; it changes only where a program must be changed."),
    HAS("account", API_STRING, "Name of the local account that this daemon serves."),
    END};

static const struct api_field api_info_result[] = {
    HAS("version", API_STRING, "The daemon's release."),
    HAS("api", API_UINT, "Number of this API."),
    HAS("methods", API_MAPS, "Each {name, since, text, params, result}."),
    HAS("events", API_MAPS, "Each {name, since, text, fields}."),
    HAS("errors", API_MAPS, "Each {code, name, validation, since, text}."),
    HAS("limits", API_MAPTYPE, "Greatest sizes and counts by name."),
    END};

static const struct api_field status_result[] = {
    HAS("version", API_STRING, "The daemon's release."),
    MAY("guid", API_STRING, "Number of this run of the daemon; another one after a restart."),
    HAS("account", API_STRING, "Name of the local account."),
    MAY("user", API_STRING, "User name at the relay; absent without an account, as are the next five."),
    MAY("uid", API_STRING, "Identity, 52 characters of base32."),
    MAY("device", API_UINT, "Number of this device."),
    MAY("fingerprint", API_STRING, "Fingerprint of the account's key, for people to compare."),
    MAY("relay", API_STRING, "URL of the relay."),
    HAS_OF("state", "none: no account yet; offline: not connected, waiting to try again; connecting; online; locked: call unlock, and only version and account are there besides.", link_states),
    MAY("queued", API_UINT, "Messages that the recipient's daemon has not acknowledged yet."),
    MAY("last_seq", API_UINT, "Number of the newest event; 0 if there was none."),
    MAY("first_seq", API_UINT, "Number of the oldest event still kept."),
    MAY("rtt_us", API_UINT, "Last round trip to the relay in microseconds."),
    MAY("last_error", API_STRING, "Why the relay could not be reached or refused, if it did."),
    END};

static const struct api_field health_result[] = {
    HAS("ok", API_BOOL, "True if all parts work."),
    HAS("store", API_STRING, "ok, or what is wrong with the state directory."),
    HAS("link", API_STRING, "ok, or what is wrong with the connection."),
    HAS_OF("key", "Where the storage key comes from.", key_sources),
    HAS("text", API_STRING, "One line for people."),
    END};

static const struct api_field lock_result[] = {
    HAS_OF("state", "How the daemon is now.", lock_states),
    HAS_OF("key", "Where the storage key comes from: only one under a passphrase keeps a locked daemon locked.", key_sources),
    END};
static const struct api_field unlock_params[] = {
    OPT("passphrase", API_STRING, API_MAX_PASSPHRASE, "The passphrase in force. Not needed where the key comes from a file or a credential."),
    OPT("new_passphrase", API_STRING, API_MAX_PASSPHRASE, "Of an open daemon only: sets the passphrase or changes it (then with passphrase) and removes the key file; an empty one goes back to the key file."),
    END};

static const struct api_field account_create_params[] = {
    REQ("user", API_STRING, API_MAX_NAME, "User name: 1 to 64 of a-z 0-9 . _ -, the first one a letter or digit."),
    REQ("relay", API_STRING, API_MAX_RELAY_URL, "URL of the relay, ws://HOST:PORT/… or wss://HOST/…."),
    OPT("token", API_STRING, API_MAX_TOKEN, "Registration token, where the relay asks for one."),
    OPT("timeout_ms", API_UINT, API_MAX_TIMEOUT_MS, "How long to wait for the relay's answer; 30000 unless given."),
    END};
static const struct api_field account_create_result[] = {
    HAS("user", API_STRING, "User name."),
    HAS("uid", API_STRING, "Identity, 52 characters of base32."),
    HAS("device", API_UINT, "Number of this device."),
    HAS("fingerprint", API_STRING, "Fingerprint of the account's key, for people to compare."),
    HAS("relay", API_STRING, "URL of the relay."),
    END};
static const struct api_field account_show_result[] = {
    HAS("user", API_STRING, "User name."),
    HAS("uid", API_STRING, "Identity, 52 characters of base32."),
    HAS("device", API_UINT, "Number of this device."),
    HAS("fingerprint", API_STRING, "Fingerprint of the account's key, for people to compare."),
    HAS("relay", API_STRING, "URL of the relay."),
    HAS("registered", API_BOOL, "True once the relay has confirmed the registration."),
    HAS("receipts", API_BOOL, "True if read receipts are sent."),
    HAS_OF("strangers", "What happens to messages of users that are no contacts.", policies),
    HAS("one_time_prekeys", API_UINT, "One-time prekeys left at the relay, as it last said."),
    END};
static const struct api_field account_delete_params[] = {
    REQ("user", API_STRING, API_MAX_NAME, "The account's own user name, as a confirmation: keys, contacts and messages are gone afterwards."),
    END};

static const struct api_field send_params[] = {
    REQ("to", API_STRING, API_MAX_NAME, "User name of the recipient."),
    OPT("text", API_STRING, API_MAX_PAYLOAD, "The message as UTF-8. Exactly one of text and bytes must be given."),
    OPT("bytes", API_BYTES, API_MAX_PAYLOAD, "The message as any bytes."),
    OPT("id", API_STRING, API_MAX_NAME, "The caller's own id: the same id again is the same message and is not sent twice. Made up if absent."),
    OPT("qos", API_UINT, 2, "0: not stored, dropped if the recipient is not there; 1: at least once; 2: exactly once (the default)."),
    OPT("ttl_ms", API_UINT, DAY30, "How long to go on trying; 30 days unless given. Then the message is expired."),
    OPT("not_before", API_UINT, MP_MAX_INT, "Not to be sent before this time, in milliseconds since 1970."),
    OPT("require_verified", API_BOOL, 0, "True: refuse with NOT_VERIFIED unless the recipient's key has been verified."),
    END};
static const struct api_field send_result[] = {
    HAS("id", API_STRING, "The message's id, for wait and message_ack."),
    HAS("seq", API_UINT, "Number of the newest event when the message was taken: subscribing after it shows each event of this message."),
    HAS_OF("state", "queued for a new message; how far it has come for an id that is known.", send_states),
    END};

static const struct api_field wait_params[] = {
    REQ("id", API_STRING, API_MAX_NAME, "The message's id."),
    OPT_OF("until", API_STRING, 16, "State to wait for; delivered unless given.", until_states),
    OPT("timeout_ms", API_UINT, API_MAX_TIMEOUT_MS, "How long to wait; 30000 unless given, 0 to ask only."),
    END};
static const struct api_field wait_result[] = {
    HAS("id", API_STRING, "The message's id."),
    HAS_OF("state", "The state reached: the one asked for, a later one, or expired or failed.", send_states),
    MAY("reason", API_STRING, "Why, if the state is failed."),
    END};

static const struct api_field read_params[] = {
    REQ("from", API_STRING, API_MAX_NAME, "User name of the sender."),
    REQ("ids", API_STRINGS, API_MAX_IDS, "Ids of messages that a person or program has read. Unknown ones are not counted."),
    END};
static const struct api_field read_result[] = {
    HAS("count", API_UINT, "Messages newly marked."),
    END};

static const struct api_field subscribe_params[] = {
    OPT("after", API_UINT, MP_MAX_INT, "Begin with the event behind this number; 0 is the oldest. Without after and consumer: new events only."),
    OPT("consumer", API_STRING, API_MAX_NAME, "Name of a cursor kept by the daemon: begin behind its last ack."),
    OPT_OF("types", API_STRINGS, API_MAX_TYPES, "Only these types of events, and gap; all unless given.", event_types),
    END};
static const struct api_field subscribe_result[] = {
    HAS("after", API_UINT, "Events begin behind this number."),
    HAS("first_seq", API_UINT, "Number of the oldest event still kept."),
    HAS("last_seq", API_UINT, "Number of the newest event."),
    END};

static const struct api_field ack_params[] = {
    REQ("consumer", API_STRING, API_MAX_NAME, "Name of the cursor."),
    REQ("seq", API_UINT, MP_MAX_INT, "Events up to this number are done with. A cursor never moves back."),
    END};
static const struct api_field ack_result[] = {
    HAS("consumer", API_STRING, "Name of the cursor."),
    HAS("seq", API_UINT, "Where the cursor is now."),
    END};

static const struct api_field events_params[] = {
    OPT("after", API_UINT, MP_MAX_INT, "Begin with the event behind this number; 0, the oldest, unless given."),
    OPT("limit", API_UINT, API_MAX_LIMIT, "At most so many events; 100 unless given. Fewer come where they would not fit into one answer."),
    OPT_OF("types", API_STRINGS, API_MAX_TYPES, "Only these types of events, and gap; all unless given.", event_types),
    END};
static const struct api_field events_result[] = {
    HAS("events", API_MAPS, "Events in order, as their notifications carry them."),
    HAS("first_seq", API_UINT, "Number of the oldest event still kept."),
    HAS("last_seq", API_UINT, "Number of the newest event."),
    END};

static const struct api_field contact_list_result[] = {
    HAS("contacts", API_MAPS, "Each as contact.show gives it, without fingerprint, safety_number and session; in no order."),
    END};
static const struct api_field contact_user_params[] = {
    REQ("user", API_STRING, API_MAX_NAME, "User name."),
    END};
static const struct api_field contact_result[] = {
    HAS("user", API_STRING, "User name."),
    HAS("uid", API_STRING, "Identity that is trusted, 52 characters of base32."),
    HAS("device", API_UINT, "Number of the contact's device."),
    HAS("verified", API_BOOL, "True once the safety numbers have been compared (contact.verify)."),
    HAS("blocked", API_BOOL, "True if messages of this user are dropped and none are sent."),
    HAS_OF("policy", "What happens if this user's key changes: block sending, hold messages until it is trusted, accept it.", policies),
    HAS("held", API_BOOL, "True if messages of this user wait for acceptance (contact.trust)."),
    HAS("fingerprint", API_STRING, "Fingerprint of the key that is trusted."),
    HAS("safety_number", API_STRING, "Number that both people see alike, to compare by voice or in person."),
    MAY("new_uid", API_STRING, "The key has changed: the identity that the relay shows now."),
    MAY("new_fingerprint", API_STRING, "Fingerprint of the changed key."),
    HAS_OF("session", "none yet; weak: made without a one-time prekey and not answered yet; strong.", session_kinds),
    END};
static const struct api_field contact_add_params[] = {
    REQ("user", API_STRING, API_MAX_NAME, "User name, looked up at the relay."),
    OPT("uid", API_STRING, 52, "The identity, where it is known from elsewhere: another key at the relay is refused."),
    END};
static const struct api_field contact_verify_params[] = {
    REQ("user", API_STRING, API_MAX_NAME, "User name."),
    REQ("number", API_STRING, API_MAX_NUMBER, "The safety number as the other person sees it; spaces do not matter."),
    END};
static const struct api_field contact_trust_params[] = {
    REQ("user", API_STRING, API_MAX_NAME, "User name."),
    OPT("uid", API_STRING, 52, "Accept the changed key with this identity (new_uid of contact.show)."),
    OPT_OF("policy", API_STRING, 16, "What happens if this user's key changes again.", policies),
    END};
static const struct api_field contact_block_params[] = {
    REQ("user", API_STRING, API_MAX_NAME, "User name."),
    OPT("blocked", API_BOOL, 0, "True, the default, blocks; false ends it."),
    END};

static const struct api_field users_params[] = {
    OPT("after", API_STRING, API_MAX_NAME, "Begin behind this name, in the order of the names."),
    OPT("limit", API_UINT, API_MAX_LIMIT, "At most so many; 500 unless given."),
    END};
static const struct api_field users_result[] = {
    HAS("users", API_MAPS, "Each {user, uid}."),
    HAS("more", API_BOOL, "True if there are more behind the last one."),
    END};

static const struct api_field raw_write_params[] = {
    REQ("text", API_STRING, API_MAX_PAYLOAD, "Sent to the relay as a WebSocket text frame, in the clear. For tests."),
    END};

const struct api_method api_methods[] = {
    {"hello", V1, "Introduces the caller and chooses the form of errors. Optional.", hello_params, hello_result},
    {"api_info", V1, "Describes every method, event, error and limit.", none, api_info_result},
    {"status", V1, "The account, the connection and the queues at a glance.", none, status_result},
    {"health", V1, "Whether the daemon can do its work, for monitoring.", none, health_result},
    {"lock", V1, "Closes the state and the connection and wipes keys and messages from memory; the answer comes when that is done. Waiting calls fail with LOCKED; subscribers get a notification error with LOCKED, and their connections are closed. hello, api_info, status, health and unlock go on.", none, lock_result},
    {"unlock", V1, "Opens a locked daemon, or sets, changes or removes the passphrase of an open one. Each wrong passphrase doubles the time, up to 30 s, until another is tried; before that: RATE_LIMITED.", unlock_params, lock_result},
    {"account.create", V1, "Makes keys, registers the user name at the relay and connects. May be repeated after a failure.", account_create_params, account_create_result},
    {"account.show", V1, "The account.", none, account_show_result},
    {"account.delete", V1, "Removes the account here, and at the relay if it can be reached.", account_delete_params, none},
    {"send", V1, "Sends a message. The answer means that it is on disk; message_ack and wait tell how far it has come.", send_params, send_result},
    {"wait", V1, "Waits until a message has come as far as asked, or has failed. TIMEOUT if neither happens in time.", wait_params, wait_result},
    {"read", V1, "Says that messages were read; the sender is told if read receipts are on.", read_params, read_result},
    {"subscribe", V1, "Sends events to this connection as notifications, old ones first. Replaces an earlier subscription.", subscribe_params, subscribe_result},
    {"unsubscribe", V1, "Ends the subscription of this connection.", none, none},
    {"ack", V1, "Moves a consumer's cursor: the daemon will not send these events to it again.", ack_params, ack_result},
    {"events", V1, "Reads the log of events without subscribing.", events_params, events_result},
    {"contact.list", V1, "All contacts.", none, contact_list_result},
    {"contact.show", V1, "One contact, with safety number and key state.", contact_user_params, contact_result},
    {"contact.add", V1, "Looks a user up at the relay and pins the key.", contact_add_params, contact_result},
    {"contact.verify", V1, "Compares safety numbers and marks the key as verified, or answers VERIFY_MISMATCH.", contact_verify_params, contact_result},
    {"contact.trust", V1, "Accepts a stranger or a changed key, or sets what happens on a change. A changed key is not verified. With uid the result is an empty map.", contact_trust_params, contact_result},
    {"contact.block", V1, "Blocks a user or ends it.", contact_block_params, contact_result},
    {"contact.remove", V1, "Forgets a contact, its key and its sessions.", contact_user_params, none},
    {"users", V1, "Lists the users of the relay.", users_params, users_result},
    {"raw.write", V1, "Writes a text frame to the relay; answers come as raw events.", raw_write_params, none},
    {.name = NULL}};

static const struct api_field connected_fields[] = {
    HAS("relay", API_STRING, "URL of the relay."),
    HAS("tls", API_BOOL, "True if the connection is encrypted by TLS as well."),
    END};
static const struct api_field disconnected_fields[] = {
    HAS("reason", API_STRING, "Why, for people."),
    END};
static const struct api_field error_fields[] = {
    HAS("code", API_STRING, "Name of an error, from the table of errors."),
    HAS("text", API_STRING, "What went wrong, for people."),
    MAY("from", API_STRING, "The user whose message it was."),
    MAY("id", API_STRING, "The message."),
    MAY("suppressed", API_UINT, "Errors before this one that were too many to report."),
    END};
static const struct api_field message_fields[] = {
    HAS("id", API_STRING, "The sender's id of the message."),
    HAS("from", API_STRING, "User name of the sender."),
    HAS("from_uid", API_STRING, "Identity of the sender."),
    HAS("device", API_UINT, "Device of the sender."),
    MAY("text", API_STRING, "The message, if it was sent as text."),
    MAY("bytes", API_BYTES, "The message, if it was sent as bytes."),
    HAS("verified", API_BOOL, "True if the sender's key has been verified."),
    HAS("sent_time", API_UINT, "When it was sent by the sender's clock, in milliseconds since 1970."),
    END};
static const struct api_field message_ack_fields[] = {
    HAS("id", API_STRING, "The message's id."),
    HAS("to", API_STRING, "User name of the recipient."),
    HAS("to_uid", API_STRING, "Identity of the recipient."),
    HAS("device", API_UINT, "Device of the recipient."),
    HAS_OF("state", "sent: on the relay's disk; delivered: on the recipient's; read; expired: ttl_ms is over; failed.", ack_states),
    MAY("reason", API_STRING, "Why, if the state is failed."),
    END};
static const struct api_field key_changed_fields[] = {
    HAS("user", API_STRING, "User name."),
    HAS("old_uid", API_STRING, "Identity that was trusted."),
    HAS("new_uid", API_STRING, "Identity that the relay shows now, for contact.trust."),
    HAS("old_fingerprint", API_STRING, "Fingerprint of the key that was trusted."),
    HAS("new_fingerprint", API_STRING, "Fingerprint of the changed key."),
    HAS_OF("policy", "What was done: block, hold or accept.", policies),
    END};
static const struct api_field session_reset_fields[] = {
    HAS("user", API_STRING, "User name."),
    HAS("uid", API_STRING, "Identity."),
    HAS("reason", API_STRING, "Why a new session was made."),
    END};
static const struct api_field raw_fields[] = {
    HAS("text", API_STRING, "A text frame from the relay, in the clear."),
    END};
static const struct api_field gap_fields[] = {
    HAS("from", API_UINT, "First event that is no longer kept."),
    HAS("to", API_UINT, "Last event that is no longer kept."),
    END};

const struct api_event api_events[] = {
    {"connected", V1, "The relay has accepted this device.", connected_fields},
    {"disconnected", V1, "The connection to the relay has ended; the daemon tries again by itself.", disconnected_fields},
    {"error", V1, "Something went wrong that no request was waiting for.", error_fields},
    {"message", V1, "A message has come. It comes once, also over restarts.", message_fields},
    {"message_ack", V1, "A message of ours has come further.", message_ack_fields},
    {"key_changed", V1, "The relay shows another key for a contact: a new installation, or somebody in between.", key_changed_fields},
    {"session_reset", V1, "A new session with a contact was made after trouble.", session_reset_fields},
    {"raw", V1, "A text frame from the relay.", raw_fields},
    {"gap", V1, "Events between the one asked for and the next one are no longer kept.", gap_fields},
    {.name = NULL}};

const struct api_error_info api_errors[] = {
    {API_PARSE_ERROR, "PARSE_ERROR", true, V1, "The bytes are no MessagePack-RPC. The daemon closes the connection."},
    {API_METHOD_NOT_FOUND, "METHOD_NOT_FOUND", true, V1, "There is no such method; api_info lists them."},
    {API_INVALID_PARAMS, "INVALID_PARAMS", true, V1, "A parameter is unknown, missing, or not what it must be; the text names it."},
    {API_TOO_LARGE, "TOO_LARGE", true, V1, "The message or the request is over a limit; the text names it."},
    {API_INVALID_NAME, "INVALID_NAME", true, V1, "A user name is 1 to 64 of a-z 0-9 . _ -, the first one a letter or digit."},
    {API_NO_ACCOUNT, "NO_ACCOUNT", false, V1, "There is no account yet: call account.create first."},
    {API_ACCOUNT_EXISTS, "ACCOUNT_EXISTS", false, V1, "There is an account with another name or relay already."},
    {API_NAME_TAKEN, "NAME_TAKEN", false, V1, "The user name belongs to somebody else at this relay: choose another."},
    {API_UNKNOWN_USER, "UNKNOWN_USER", false, V1, "The relay knows no user of this name."},
    {API_UNKNOWN_CONTACT, "UNKNOWN_CONTACT", false, V1, "The user is no contact: call contact.add, or send, first."},
    {API_UNKNOWN_MESSAGE, "UNKNOWN_MESSAGE", false, V1, "No message has this id, or it is no longer kept."},
    {API_NOT_CONNECTED, "NOT_CONNECTED", false, V1, "The relay is needed for this and cannot be reached now: try later."},
    {API_KEY_CHANGED, "KEY_CHANGED", false, V1, "The contact's key has changed: compare it, then call contact.trust."},
    {API_NOT_VERIFIED, "NOT_VERIFIED", false, V1, "A verified key was required: compare safety numbers, then call contact.verify."},
    {API_VERIFY_MISMATCH, "VERIFY_MISMATCH", false, V1, "The safety numbers differ: somebody may be in between, or one number is of an older key."},
    {API_BLOCKED, "BLOCKED", false, V1, "The contact is blocked: contact.block with blocked false ends it."},
    {API_QUEUE_FULL, "QUEUE_FULL", false, V1, "Too many messages wait to be delivered: try later."},
    {API_RATE_LIMITED, "RATE_LIMITED", false, V1, "Too many requests: try again after retry_after_ms."},
    {API_TIMEOUT, "TIMEOUT", false, V1, "It did not happen in the time given. It may still happen."},
    {API_RELAY_REFUSED, "RELAY_REFUSED", false, V1, "The relay refused; the text says why."},
    {API_TOKEN_REQUIRED, "TOKEN_REQUIRED", false, V1, "This relay registers users only with a token: ask its operator for one."},
    {API_REGISTRATION_CLOSED, "REGISTRATION_CLOSED", false, V1, "This relay registers no users now."},
    {API_EXPIRED, "EXPIRED", false, V1, "The time given for it is over."},
    {API_ID_CONFLICT, "ID_CONFLICT", false, V1, "The id was used for another message already: an id is for one content and one recipient."},
    {API_STORAGE, "STORAGE", false, V1, "The state directory cannot be read or written; the daemon's log says more."},
    {API_DISK_FULL, "DISK_FULL", false, V1, "The disk is full: nothing was changed."},
    {API_FORBIDDEN, "FORBIDDEN", false, V1, "The caller may not do this."},
    {API_SHUTTING_DOWN, "SHUTTING_DOWN", false, V1, "The daemon is stopping: connect again."},
    {API_INTERNAL, "INTERNAL", false, V1, "A fault in the daemon; its log says more."},
    {API_LOCKED, "LOCKED", false, V1, "The daemon is locked: call unlock with the passphrase (e2eectl unlock) first."},
    {API_WRONG_PASSPHRASE, "WRONG_PASSPHRASE", false, V1, "This is not the passphrase: nothing was changed. The next one is tried after retry_after_ms."},
    {.name = NULL}};
/* clang-format on */
