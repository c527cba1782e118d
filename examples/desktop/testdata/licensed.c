/* Asks a program about its license: licensed /usr/bin/inkwell */
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

/* may_use reports whether a feature is unlocked. JSON of one object is simple enough to search:
   features are a list of texts, and no other field of the status contains a list. */
static int may_use(const char *program, const char *feature) {
	char command[1024], answer[16384], wanted[128];
	if (strchr(program, '\'') != NULL ||
	    snprintf(command, sizeof command, "'%s' status --json", program) >= (int)sizeof command)
		return 0;
	FILE *out = popen(command, "r");
	if (out == NULL)
		return 0;
	size_t n = fread(answer, 1, sizeof answer - 1, out);
	answer[n] = '\0';
	int code = pclose(out);
	if (code == -1 || !WIFEXITED(code) || WEXITSTATUS(code) != 0)
		return 0; /* 0 means that the program may run */
	char *list = strstr(answer, "\"features\": [");
	char *end = list != NULL ? strchr(list, ']') : NULL;
	if (end == NULL)
		return 0;
	*end = '\0';
	snprintf(wanted, sizeof wanted, "\"%s\"", feature);
	return strstr(list, wanted) != NULL;
}

int main(int argc, char **argv) {
	int unlocked = argc == 2 && may_use(argv[1], "export");
	puts(unlocked ? "export is unlocked" : "export is locked");
	return !unlocked;
}
