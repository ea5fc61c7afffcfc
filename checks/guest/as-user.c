// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors
//
// as-user ID COMMAND...
// In the test guest: executes a command as the user and the group with this id,
// which has no name there. (busybox wants one.)

#include <grp.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	if (argc < 3) {
		fprintf(stderr, "usage: as-user ID COMMAND...\n");
		return 2;
	}
	unsigned id = strtoul(argv[1], NULL, 10);
	if (setgroups(0, NULL) != 0 || setgid(id) != 0 || setuid(id) != 0) {
		perror("as-user: changing the user");
		return 1;
	}
	execvp(argv[2], argv + 2);
	perror("as-user: executing the command");
	return 1;
}
