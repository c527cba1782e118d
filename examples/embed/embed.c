//go:build embed

// What C sees of embed.go. It notices a fork before Go is called, because Go would hang.

#include <stddef.h>
#include <stdlib.h>

#include "_cgo_export.h"

#ifdef _WIN32
static const int forked = 0;
#else
#include <pthread.h>

static volatile int forked;

static void in_child(void) { forked = 1; }

__attribute__((constructor)) static void watch_forks(void) { pthread_atfork(NULL, NULL, in_child); }
#endif

#define NOT_FORKED(message)                  \
	do {                                 \
		if ((message) != NULL)       \
			*(message) = NULL;   \
		if (forked)                  \
			return POLARGATE_FORKED; \
	} while (0)

int polargate_abi(void) { return POLARGATE_ABI; }

int polargate_open(polargate_text config, polargate_gate *gate, char **message) {
	if (gate == NULL)
		return POLARGATE_INPUT;
	*gate = 0;
	NOT_FORKED(message);
	return embedOpen(config, gate, message);
}

int polargate_close(polargate_gate gate) {
	char **none = NULL;
	NOT_FORKED(none);
	return embedClose(gate);
}

int polargate_check(polargate_gate gate, int timeout_ms, char **message) {
	NOT_FORKED(message);
	return embedCheck(gate, timeout_ms, message);
}

int polargate_activate(polargate_gate gate, polargate_text key, int timeout_ms, char **message) {
	NOT_FORKED(message);
	return embedActivate(gate, key, timeout_ms, message);
}

int polargate_deactivate(polargate_gate gate, int timeout_ms, char **message) {
	NOT_FORKED(message);
	return embedDeactivate(gate, timeout_ms, message);
}

int polargate_consume(polargate_gate gate, int64_t n, int timeout_ms, int64_t *left, char **message) {
	NOT_FORKED(message);
	return embedConsume(gate, n, timeout_ms, left, message);
}

int polargate_has(polargate_gate gate, polargate_text feature) {
	return forked ? 0 : embedHas(gate, feature);
}

char *polargate_status(polargate_gate gate) { return forked ? NULL : embedStatus(gate); }

void polargate_free(char *text) { free(text); }
