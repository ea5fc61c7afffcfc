// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors
//
// In the test guest: a Wayland client without libraries, which reaches the
// host's compositor through a cross-domain context of the virtio-gpu device.
//   show-window globals              prints the globals that it is offered
//   show-window bind NUMBER NAME     binds a global, offered or not
//   show-window show [APP_ID]        shows four coloured squares until it is ended
//   show-window flood                writes for ever and reads nothing
// Status 0: done, 1: the device or the compositor did not do it, 2: usage.

#include <errno.h>
#include <fcntl.h>
#include <linux/ioctl.h>
#include <linux/types.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define DEVICE "/dev/dri/renderD128"
// The window's side, and that of each square, in pixels.
#define SIDE 128
#define SQUARE (SIDE / 2)

// Linux 6.1: include/uapi/drm/virtgpu_drm.h
struct map { __u64 offset; __u32 handle, pad; };
struct execbuffer {
	__u32 flags, size;
	__u64 command, bo_handles;
	__u32 num_bo_handles;
	__s32 fence_fd;
	__u32 ring_idx, pad;
};
struct wait { __u32 handle, flags; };
struct create_blob {
	__u32 blob_mem, blob_flags, bo_handle, res_handle;
	__u64 size;
	__u32 pad, cmd_size;
	__u64 cmd, blob_id;
};
struct context_param { __u64 param, value; };
struct context_init { __u32 num_params, pad; __u64 params; };
#define VIRTGPU(number, type) _IOWR('d', 0x40 + (number), type)
#define EXECBUF_RING_IDX 4
#define BLOB_MEM_GUEST 1
#define BLOB_MEM_HOST3D 2
#define BLOB_MAPPABLE 1
#define BLOB_SHAREABLE 2

// rutabaga's cross-domain protocol, version 1.
enum { QUERY_RING, CHANNEL_RING };
enum { CMD_INIT = 1, CMD_GET_IMAGE_REQUIREMENTS, CMD_POLL, CMD_SEND, CMD_RECEIVE };
#define CAPSET 5
#define CHANNEL_WAYLAND 1
#define ID_BLOB 1
#define USE_LINEAR (1 << 4)
struct header { __u8 cmd, ring; __u16 size; __u32 pad; };
struct init { struct header header; __u32 query_ring, channel_ring, channel; };
struct get_requirements { struct header header; __u32 width, height, format, flags; };
struct requirements { __u32 strides[4], offsets[4]; __u64 modifier, size; __u32 blob_id; };
struct transfer {
	struct header header;
	__u32 identifier_count, size, identifiers[28], types[28], sizes[28];
};

static int device;
// The memory that answers are written to.
static struct create_blob query, channel;
static void *answer, *received;
// A message to the compositor, and what it was sent with.
static struct { struct transfer transfer; __u32 words[256]; } message;
static unsigned words;

static void fail(const char *what)
{
	fprintf(stderr, "show-window: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void control(const char *what, unsigned long request, void *argument)
{
	while (ioctl(device, request, argument) != 0)
		if (errno != EINTR)
			fail(what);
}

static void *make_blob(struct create_blob *blob)
{
	control("making a blob", VIRTGPU(0x0a, struct create_blob), blob);
	struct map map = { .handle = blob->bo_handle };
	control("finding a blob", VIRTGPU(0x01, struct map), &map);
	void *at = mmap(NULL, blob->size, PROT_READ | PROT_WRITE, MAP_SHARED, device, map.offset);
	if (at == MAP_FAILED)
		fail("mapping a blob");
	return at;
}

static void submit(void *command, unsigned size, int ring, __u32 bo)
{
	struct header *header = command;
	header->size = size;
	struct execbuffer execbuffer = {
		.flags = EXECBUF_RING_IDX, .ring_idx = ring, .size = size, .command = (uintptr_t)command,
		.bo_handles = (uintptr_t)&bo, .num_bo_handles = bo != 0,
	};
	control("a command", VIRTGPU(0x02, struct execbuffer), &execbuffer);
}

static void open_context(void)
{
	device = open(DEVICE, O_RDWR | O_CLOEXEC);
	if (device < 0)
		fail(DEVICE);
	struct context_param params[] = { { 1, CAPSET }, { 2, 2 }, { 3, 1 << CHANNEL_RING } };
	struct context_init init = { .num_params = 3, .params = (uintptr_t)params };
	control("a cross-domain context", VIRTGPU(0x0b, struct context_init), &init);
	query = channel = (struct create_blob){ .blob_mem = BLOB_MEM_GUEST, .blob_flags = BLOB_MAPPABLE, .size = 4096 };
	answer = make_blob(&query);
	received = make_blob(&channel);
	struct init start = {
		.header = { .cmd = CMD_INIT }, .query_ring = query.res_handle,
		.channel_ring = channel.res_handle, .channel = CHANNEL_WAYLAND,
	};
	submit(&start, sizeof start, QUERY_RING, 0);
}

// A request's arguments: i and n are words, s is a string, and f a blob's descriptor.
static void request(__u32 object, __u32 opcode, const char *types, ...)
{
	va_list arguments;
	unsigned start = words;
	words += 2;
	va_start(arguments, types);
	for (; *types; types++) {
		if (*types == 's') {
			const char *text = va_arg(arguments, const char *);
			__u32 length = strlen(text) + 1;
			message.words[words] = length;
			memset(&message.words[words + 1], 0, (length + 3) / 4 * 4);
			memcpy(&message.words[words + 1], text, length);
			words += 1 + (length + 3) / 4;
		} else if (*types == 'f') {
			message.transfer.identifiers[0] = va_arg(arguments, __u32);
			message.transfer.types[0] = ID_BLOB;
			message.transfer.identifier_count = 1;
		} else {
			message.words[words++] = va_arg(arguments, __u32);
		}
	}
	va_end(arguments);
	message.words[start] = object;
	message.words[start + 1] = (words - start) * 4 << 16 | opcode;
}

static void flush(void)
{
	message.transfer.header.cmd = CMD_SEND;
	message.transfer.size = words * 4;
	submit(&message, sizeof message.transfer + words * 4, QUERY_RING, 0);
	memset(&message, 0, sizeof message);
	words = 0;
}

// The next event: its object, its opcode and its arguments.
static __u32 *next_event(__u32 *object, __u32 *opcode)
{
	static __u32 events[4096], *next = events, *end = events;

	// An event may come in two parts.
	while (end - next < 2 || end - next < next[1] >> 18) {
		memmove(events, next, (end - next) * 4);
		end -= next - events;
		next = events;
		struct header poll = { .cmd = CMD_POLL };
		submit(&poll, sizeof poll, CHANNEL_RING, 0);
		char signalled[64];
		if (read(device, signalled, sizeof signalled) < 0)
			fail("waiting for the compositor");
		struct transfer *transfer = received;
		memcpy(end, transfer + 1, transfer->size);
		end += transfer->size / 4;
	}
	__u32 *event = next;
	next += event[1] >> 18;
	*object = event[0];
	*opcode = event[1] & 0xffff;
	if (*object == 1 && *opcode == 0) {
		printf("show-window: refused: %s\n", (char *)&event[5]);
		exit(1);
	}
	return event + 2;
}

// The objects; new ones must be numbered without gaps.
enum { DISPLAY = 1, REGISTRY, DONE, COMPOSITOR, SHM, WM_BASE, SURFACE, XDG_SURFACE, TOPLEVEL, POOL, BUFFER, SHOWN };

static void get_registry(void)
{
	request(DISPLAY, 1, "n", REGISTRY);
	request(DISPLAY, 0, "n", DONE);
	flush();
}

static void print_globals(void)
{
	for (;;) {
		__u32 object, opcode, *arguments = next_event(&object, &opcode);
		if (object == REGISTRY && opcode == 0)
			printf("global %u %s\n", arguments[0], (char *)&arguments[2]);
		else if (object == DONE)
			return;
	}
}

static void bind_global(__u32 number, const char *name)
{
	request(REGISTRY, 0, "isin", number, name, 1, COMPOSITOR);
	request(DISPLAY, 0, "n", SHM);
	flush();
	for (;;) {
		__u32 object, opcode;
		next_event(&object, &opcode);
		if (object == SHM)
			break;
	}
	printf("show-window: bound\n");
}

// A picture of four squares in memory that the compositor shares.
static struct create_blob draw(__u32 *stride)
{
	static const __u32 colours[] = { 0xffff0000, 0xff00ff00, 0xff0000ff, 0xffffff00 };
	struct get_requirements get = {
		.header = { .cmd = CMD_GET_IMAGE_REQUIREMENTS },
		.width = SIDE, .height = SIDE, .format = 0x34325258 /* XR24 */, .flags = USE_LINEAR,
	};
	submit(&get, sizeof get, QUERY_RING, query.bo_handle);
	struct wait wait = { .handle = query.bo_handle };
	control("the buffer's layout", VIRTGPU(0x08, struct wait), &wait);
	struct requirements *requirements = answer;
	*stride = requirements->strides[0];
	struct create_blob blob = {
		.blob_mem = BLOB_MEM_HOST3D, .blob_flags = BLOB_MAPPABLE | BLOB_SHAREABLE,
		.size = requirements->size, .blob_id = requirements->blob_id,
	};
	__u32 *pixels = make_blob(&blob);
	for (unsigned y = 0; y < SIDE; y++)
		for (unsigned x = 0; x < SIDE; x++)
			pixels[y * *stride / 4 + x] = colours[y / SQUARE * 2 + x / SQUARE];
	return blob;
}

static void show(const char *app_id)
{
	__u32 object, opcode, *arguments, stride;
	__u32 numbers[3] = { 0 };
	static const char *const names[] = { "wl_compositor", "wl_shm", "xdg_wm_base" };

	do {
		arguments = next_event(&object, &opcode);
		for (int i = 0; i < 3 && object == REGISTRY && opcode == 0; i++)
			if (strcmp((char *)&arguments[2], names[i]) == 0)
				numbers[i] = arguments[0];
	} while (object != DONE);
	for (int i = 0; i < 3; i++)
		request(REGISTRY, 0, "isin", numbers[i], names[i], 1, COMPOSITOR + i);
	request(COMPOSITOR, 0, "n", SURFACE);
	request(WM_BASE, 2, "ni", XDG_SURFACE, SURFACE);
	request(XDG_SURFACE, 1, "n", TOPLEVEL);
	request(TOPLEVEL, 2, "s", "four squares");
	if (app_id)
		request(TOPLEVEL, 3, "s", app_id);
	request(SURFACE, 6, "");
	flush();

	struct create_blob blob = draw(&stride);
	request(SHM, 0, "nfi", POOL, blob.res_handle, (__u32)blob.size);
	request(POOL, 0, "niiiii", BUFFER, 0, SIDE, SIDE, stride, 1 /* xrgb8888 */);
	flush();
	for (int shown = 0;;) {
		arguments = next_event(&object, &opcode);
		if (object == WM_BASE) {
			request(WM_BASE, 3, "i", arguments[0]);
			flush();
		} else if (object == XDG_SURFACE) {
			request(XDG_SURFACE, 4, "i", arguments[0]);
			if (!shown++) {
				request(SURFACE, 1, "iii", BUFFER, 0, 0);
				request(SURFACE, 2, "iiii", 0, 0, SIDE, SIDE);
				request(SURFACE, 3, "n", SHOWN);
			}
			request(SURFACE, 6, "");
			flush();
		} else if (object == SHOWN) {
			printf("show-window: shown\n");
		} else if (object == TOPLEVEL && opcode == 1) {
			printf("show-window: closed\n");
			return;
		}
	}
}

static void flood(void)
{
	for (;;) {
		for (int i = 0; i < 64; i++)
			request(DISPLAY, 0, "n", DONE);
		flush();
	}
}

int main(int argc, char **argv)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	const char *mode = argc > 1 ? argv[1] : "";
	int known = (strcmp(mode, "globals") == 0 && argc == 2) || (strcmp(mode, "bind") == 0 && argc == 4) ||
		    (strcmp(mode, "show") == 0 && argc <= 3) || (strcmp(mode, "flood") == 0 && argc == 2);
	if (!known) {
		fprintf(stderr, "usage: show-window globals | bind NUMBER NAME | show [APP_ID] | flood\n");
		return 2;
	}
	open_context();
	get_registry();
	if (*mode == 'g')
		print_globals();
	else if (*mode == 'b')
		bind_global(atoi(argv[2]), argv[3]);
	else if (*mode == 's')
		show(argv[2]);
	else
		flood();
	return 0;
}
