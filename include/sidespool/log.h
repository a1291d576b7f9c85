/* One line per event on stderr: `time=… level=info event=checkpoint_saved source=orders records=512`.
 * A fixed event name, typed pairs, escaping in one place. Never a row value, never a credential.
 * ERROR: someone must act. WARN: what is done instead. INFO: state changes only. Thread-safe (one write(2) a line). */
#ifndef SIDESPOOL_LOG_H
#define SIDESPOOL_LOG_H

#include "sidespool/bytes.h"
#include "sidespool/error.h"

typedef enum { SS_DEBUG, SS_INFO, SS_WARN, SS_ERROR } ss_level;
typedef struct {
    const char *key;
    enum { SS_KV_T_STR, SS_KV_T_I64, SS_KV_T_U64, SS_KV_T_F } type;
    union { const char *s; int64_t i; uint64_t u; double f; } v;
} ss_kv;
#define SS_S(k, val) ((ss_kv){(k), SS_KV_T_STR, {.s = (val)}})
#define SS_I(k, val) ((ss_kv){(k), SS_KV_T_I64, {.i = (int64_t)(val)}})
#define SS_U(k, val) ((ss_kv){(k), SS_KV_T_U64, {.u = (uint64_t)(val)}})
#define SS_F(k, val) ((ss_kv){(k), SS_KV_T_F, {.f = (val)}})

void ss_log_write(ss_level level, const char *event, const ss_kv *pairs, size_t count);
#define SS_LOG(level, event, ...) \
    ss_log_write((level), (event), (const ss_kv[]){__VA_ARGS__}, sizeof((const ss_kv[]){__VA_ARGS__}) / sizeof(ss_kv))
/* Pairs that every later line of this process carries, e.g. source=orders. Called once, before threads start. */
void ss_log_common(const ss_kv *pairs, size_t count);
void ss_log_threshold(ss_level least); /* default SS_INFO; SIDESPOOL_LOG=debug lowers it */
/* An ss_error as pairs code=, error=, errno=. */
void ss_log_error(ss_level level, const char *event, const ss_error *err);

#endif
