#!/usr/bin/perl
# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors
#
# writer.pl SEED PARTITION VICTIM...
# The owner of a user partition attacks from it: changes, links, removes, renames
# and truncates there at random, until killed. Prints how many changes there were,
# a line for every hundred.
use strict;
use warnings;
use Fcntl qw(O_CREAT O_TRUNC O_WRONLY);
use File::Path qw(remove_tree);
use POSIX qw(mkfifo);
use Time::HiRes qw(sleep time);

$| = 1;
my ($seed, $partition, @victims) = @ARGV;
srand $seed;
umask 022;
my $data = "$partition/svc/data";
my $kept = "$partition/kept";

sub pick { return $_[int rand @_] }

# Names of its own, of the others' VMs, and such as no VM can have.
sub name {
    return pick(@victims) if rand() < 0.3;
    return pick("a\e[2Jb", "line\nfeed", 'x' x 200, '-rf', "\xff\xfe", '%i', 'user', '.hidden') if rand() < 0.2;
    return 'vm' . int rand 12;
}

# Where links lead: to its own files, out of the partition, in circles, to nothing.
sub target {
    return pick(
        '/ext/vmlinux', '/ext/root.img', '/ext/shared', '/', '/proc/self', '/proc/1/root', '/dev/zero', '..',
        '/srv/P', '/srv/P/svc/data', '/srv/P/svc/data/' . pick(@victims), '/srv/P/shared-one', '/ext/svc/data',
        '/ext/svc/data/' . name(), 'nowhere', "../svc/data/" . name(), "\e]0;x\a" x 500, 'a/' x 2000,
        '/var/lib/microvms', '/run/microvm', '/nix/store', '/ext/chain/0'
    );
}

sub put {
    my ($path, $text) = @_;
    sysopen my $file, $path, O_WRONLY | O_CREAT | O_TRUNC or return;
    syswrite $file, $text;
}

sub empty {
    my ($path) = @_;
    if (-d $path && !-l $path) { remove_tree($path, { error => \my $ignored }) }
    else { unlink $path }
}

# Something in the place of whatever is there.
sub put_anything {
    my ($path) = @_;
    empty($path);
    my $kind = int rand 8;
    if ($kind == 0) { mkfifo $path, 0644 }
    elsif ($kind == 1) { mkdir $path }
    elsif ($kind == 2) { put($path, "\x7fELF" . "\0" x 60) }
    elsif ($kind == 3) { put($path, ''); truncate $path, 2**40 }
    elsif ($kind == 4) { put($path, 'x'); chmod 0, $path }
    else { symlink target(), $path }
}

# A VM that could run, for all that its directory says.
sub make_vm {
    my ($vm) = @_;
    mkdir $vm;
    mkdir "$vm/blk";
    symlink '/ext/vmlinux', "$vm/vmlinux";
    symlink '/ext/root.img', "$vm/blk/root.img";
    if (rand() < 0.3) {
        mkdir "$vm/providers";
        mkdir "$vm/providers/net";
        put("$vm/providers/net/" . name(), '') for 1 .. 1 + rand 3;
    }
    if (rand() < 0.3) {
        mkdir "$vm/shared-dirs";
        for my $tag (1 .. 1 + rand 4) {
            mkdir "$vm/shared-dirs/$tag";
            symlink target(), "$vm/shared-dirs/$tag/dir";
        }
    }
}

sub vms {
    opendir my $all, $data or return;
    return map { "$data/$_" } grep { !/^\.\.?$/ } readdir $all;
}

sub part { return pick('vmlinux', 'blk', 'blk/root.img', 'providers', 'providers/net', 'shared-dirs', 'shared-dirs/1/dir', '') }

# The directory of VM directories is another one for a while.
sub replace_all {
    rename $data, $kept or return;
    if (rand() < 0.5) { symlink pick('/', '/srv/P', '/srv/P/shared-one', '/srv/P/svc/data'), $data }
    else { put_anything($data) }
    sleep rand 1.5;
    empty($data);
    rename $kept, $data;
}

# One name, made and removed as fast as can be.
sub churn {
    my $vm = "$data/churn";
    my $end = time + 0.3;
    while (time < $end) {
        mkdir $vm;
        sleep 0.002;
        rmdir $vm;
    }
}

sub crowd {
    my $vm = "$data/crowd";
    empty($vm);
    make_vm($vm);
    put("$vm/blk/$_.img", '') for 1 .. 300;
    symlink "/ext/svc/data/crowd", "$data/crowd-$_" for 1 .. 40;
}

for my $step (0 .. 38) {
    mkdir "$partition/chain";
    symlink '/ext/chain/' . ($step + 1), "$partition/chain/$step";
}
# What is wrong with no directory, and changes the catalog all the time.
sub come_and_go {
    my $vm = "$data/vm" . int rand 12;
    if (-e $vm && rand() < 0.4) { rename $vm, "$data/vm" . int rand 12 }
    elsif (-e $vm) { empty($vm) }
    else {
        mkdir $vm;
        mkdir "$vm/blk";
        symlink '/ext/vmlinux', "$vm/vmlinux";
        symlink '/ext/root.img', "$vm/blk/root.img";
    }
    put("$partition/vmlinux", "\x7fELF\2\1\1" . "\0" x 9 . "\2\0\x3e\0" . "\0" x 100);
}

my ($changes, $begun) = (0, time);
while (1) {
    $changes++;
    print "$changes\n" if $changes % 100 == 0;
    sleep rand 0.03;
    if ((time - $begun) % 12 < 6) {
        come_and_go();
        next;
    }
    my @vms = vms();
    my $vm = @vms ? pick(@vms) : "$data/vm0";
    my $kind = rand 100;
    if (@vms > 80) { empty($_) for @vms }
    elsif ($kind < 35) { make_vm("$data/" . name()) }
    elsif ($kind < 50) { put_anything("$vm/" . part()) }
    elsif ($kind < 60) { empty($vm) }
    elsif ($kind < 70) { rename $vm, "$data/" . name() }
    elsif ($kind < 78) { symlink target(), "$data/" . name() }
    elsif ($kind < 84) { truncate "$partition/" . pick('vmlinux', 'root.img'), int rand 8192 }
    elsif ($kind < 90) { put("$partition/vmlinux", "\x7fELF\2\1\1" . "\0" x 9 . "\2\0\x3e\0" . "\0" x 100) }
    elsif ($kind < 94) { chmod pick(0, 0700, 0755), $vm }
    elsif ($kind < 96) { replace_all() }
    elsif ($kind < 98) { churn() }
    elsif ($kind < 98.5) { crowd() }
    else { utime undef, undef, $vm }
}
