/*
 * polargate for programs that aren't written in Go: ten functions in a shared library.
 *
 *   go build -tags embed -buildmode=c-shared -o libpolargate.so ./examples/embed
 *
 * Texts. All are UTF-8 and end with a zero byte. A text that you pass belongs to you; the
 * library reads it during the call and keeps no pointer to it. A text that you get belongs to
 * you as well: give it to polargate_free. Where a message is returned, you may pass NULL for it
 * if you don't want it. It is set to NULL on success.
 *
 * Threads. Every function may be called from any thread at any time, also for one gate at
 * once. Calls that talk to the license server block their thread, polargate_has and
 * polargate_status never do. A gate that another thread closes meanwhile ends those calls with
 * POLARGATE_CLOSED or POLARGATE_NOT_NOW.
 *
 * fork. The library has threads of its own, and fork() takes none of them along. In a process
 * that was forked without an exec() after it, nothing of a Go library can be used: every
 * function here that reports a result returns POLARGATE_FORKED then, polargate_has 0 and
 * polargate_status NULL. So load the library after forking (workers of a web server), or start
 * programs anew (Python: multiprocessing.set_start_method("spawn")). The library also can't be unloaded:
 * don't call dlclose.
 *
 * Signals. The Go runtime handles signals that your program leaves alone, such as SIGURG, which
 * it sends itself. If you install handlers, use SA_ONSTACK.
 */
#ifndef POLARGATE_H
#define POLARGATE_H

#include <stdint.h>

#ifdef _WIN32
#define POLARGATE_API __declspec(dllexport)
#else
#define POLARGATE_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* The version of this interface. polargate_abi tells that of the library. */
#define POLARGATE_ABI 1

/* A gate is a number, so that one that was closed is noticed and harmless. 0 is none. */
typedef int64_t polargate_gate;

typedef const char *polargate_text; /* that you pass */

enum {
	POLARGATE_OK = 0,
	POLARGATE_LOCKED = 2,     /* the license is refused or has ended, or a key was refused */
	POLARGATE_UNLICENSED = 3, /* there is no license */
	POLARGATE_NOT_NOW = 4,    /* not decided or done now: network, busy server, disk, time-out */
	POLARGATE_INPUT = 64,     /* an argument is wrong: see the message */
	POLARGATE_CLOSED = 65,    /* there is no such gate, or it was closed; no message */
	POLARGATE_BROKEN = 70,    /* a fault of the library; it is in a state to be used further */
	POLARGATE_FORKED = 71     /* called after fork() without exec(); no message */
};

/* polargate_abi returns POLARGATE_ABI as the library was built with. */
POLARGATE_API int polargate_abi(void);

/*
 * polargate_open opens a gate. It reads the stored license and asks nobody. config is a JSON
 * object; unknown members are refused:
 *
 *   organization_id  text, required
 *   app, version     texts: app names the folder of the license
 *   features         {"benefit id": ["feature", …], …}
 *   folder           where the license is stored; without it, where the system wants it
 *   secret           text that seals the stored license as well
 *   base_url         another address of the license server, for tests
 *   background       true: the license is kept up to date while the gate is open
 */
POLARGATE_API int polargate_open(polargate_text config, polargate_gate *gate, char **message);

/* polargate_close ends what is under way, for at most a few seconds, and frees the gate. */
POLARGATE_API int polargate_close(polargate_gate gate);

/*
 * polargate_check is for the program's start: POLARGATE_OK if it may run. It asks the license
 * server only if the last answer has become old, for at most 5 seconds.
 *
 * Here and below, timeout_ms bounds how long the call waits; 0 means no bound beyond the
 * library's own. Work that can't be undone is finished in the background.
 */
POLARGATE_API int polargate_check(polargate_gate gate, int timeout_ms, char **message);

/* polargate_activate activates a license key on this computer. */
POLARGATE_API int polargate_activate(polargate_gate gate, polargate_text key, int timeout_ms, char **message);

/* polargate_deactivate gives up the license of this computer, offline too. */
POLARGATE_API int polargate_deactivate(polargate_gate gate, int timeout_ms, char **message);

/*
 * polargate_consume counts n uses of the license key. left, if not NULL, is set to how many
 * are left, or -1 if there is no limit.
 */
POLARGATE_API int polargate_consume(polargate_gate gate, int64_t n, int timeout_ms, int64_t *left, char **message);

/* polargate_has returns 1 if the license has a feature now, and 0 otherwise. It is cheap. */
POLARGATE_API int polargate_has(polargate_gate gate, polargate_text feature);

/*
 * polargate_status returns the state of the license as a JSON object, with a message for a
 * person and the key masked; NULL if there is no such gate.
 */
POLARGATE_API char *polargate_status(polargate_gate gate);

/* polargate_free frees a text that this library returned. NULL is fine. */
POLARGATE_API void polargate_free(char *text);

#ifdef __cplusplus
}
#endif

#endif
