// Inkwell is a program in C that is sold by license key.
//
//	go build -tags embed -buildmode=c-shared -o libpolargate.so ./examples/embed
//	cc -Iexamples/embed -o inkwell examples/embed/c/inkwell.c -L. -lpolargate -Wl,-rpath,. -lpthread
//	./inkwell CONFIG KEY
//
// CONFIG is the JSON that polargate.h describes. The program activates the key, uses the
// license from several threads, and deactivates it.

#include <polargate.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static polargate_gate gate;

// say prints what a call did, frees its message, and returns its code.
static int say(const char *what, int code, char *message) {
	printf("%s: %d%s%s\n", what, code, message ? " " : "", message ? message : "");
	polargate_free(message);
	return code;
}

static void *asks_often(void *granted) {
	for (int i = 0; i < 1000; i++) {
		char *status = polargate_status(gate);
		if (status == NULL || strstr(status, "\"state\":\"active\"") == NULL || !polargate_has(gate, "export"))
			*(int *)granted = 0;
		polargate_free(status);
	}
	return NULL;
}

int main(int argc, char **argv) {
	char *message = NULL;
	if (argc != 3)
		return 64;
	setvbuf(stdout, NULL, _IONBF, 0); // a fork would copy what is still in a buffer
	if (polargate_abi() != POLARGATE_ABI)
		return 70;
	int code = polargate_open(argv[1], &gate, &message);
	if (say("open", code, message) != POLARGATE_OK)
		return 1;
	code = polargate_check(gate, 5000, &message);
	say("check before", code, message);
	code = polargate_activate(gate, "NO-SUCH-KEY", 10000, &message);
	say("wrong key", code, message);
	code = polargate_activate(gate, argv[2], 10000, &message);
	say("activate", code, message);

	enum { threads = 8 };
	pthread_t thread[threads];
	int granted[threads];
	for (int i = 0; i < threads; i++) {
		granted[i] = 1;
		pthread_create(&thread[i], NULL, asks_often, &granted[i]);
	}
	int all = 1;
	for (int i = 0; i < threads; i++) {
		pthread_join(thread[i], NULL);
		all = all && granted[i];
	}
	printf("threads: %d\n", all);
	printf("other feature: %d\n", polargate_has(gate, "paint"));

	int64_t left = 0;
	code = polargate_consume(gate, 3, 10000, &left, &message);
	say("consume", code, message);
	printf("left: %lld\n", (long long)left);

	pid_t child = fork();
	if (child == 0) // nothing works here, and nothing hangs
		_exit(polargate_has(gate, "export") == 0 && polargate_check(gate, 0, NULL) == POLARGATE_FORKED ? 0 : 1);
	int how = -1;
	waitpid(child, &how, 0);
	printf("forked: %d\n", WIFEXITED(how) ? WEXITSTATUS(how) : -1);

	code = polargate_deactivate(gate, 10000, &message);
	say("deactivate", code, message);
	say("close", polargate_close(gate), NULL);
	say("close again", polargate_close(gate), NULL);
	code = polargate_check(gate, 0, &message);
	say("after close", code, message);
	return 0;
}
