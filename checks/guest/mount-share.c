// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors
//
// mount-share TAG DIR
// In the test guest: mounts the shared directory TAG, whatever bytes it is made
// of, at DIR, which is made when it does not exist. (busybox's mount takes some
// tags for options, for commands or for images.)

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>

int main(int argc, char **argv)
{
	if (argc != 3) {
		fprintf(stderr, "usage: mount-share TAG DIR\n");
		return 2;
	}
	if (mkdir(argv[2], 0755) != 0 && errno != EEXIST) {
		fprintf(stderr, "mount-share: making %s: %s\n", argv[2], strerror(errno));
		return 1;
	}
	if (mount(argv[1], argv[2], "virtiofs", 0, NULL) != 0) {
		fprintf(stderr, "mount-share: mounting %s at %s: %s\n", argv[1], argv[2], strerror(errno));
		return 1;
	}
	return 0;
}
