#!/usr/bin/perl
# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors
#
# In the place of QEMU: a monitor that was taken over and refuses to stop. It
# answers what the supervisor asks until the VM counts as started. Then it does
# to the supervisor what it can, writes what came of it to a file, and stays: signals, the power button and closed sockets do not matter to it.
#
# A VM whose name ends in an even number rewrites its supervisor, which then only
# asks systemd for more time; the others stop every process of their user, again
# and again, and ask for that time themselves.
use strict;
use warnings;
use Errno;
use IO::Select;
use IO::Socket::UNIX;
use Socket qw(SOCK_DGRAM);
use Time::HiRes qw(sleep);

$| = 1;
$SIG{$_} = 'IGNORE' for qw(TERM INT HUP QUIT PIPE ALRM USR1 USR2);
my ($number) = "@ARGV" =~ /guest=[^, ]*?(\d+)/ or die 'this VM has no number';
my $supervisor = getppid;
my $notify = '/run/systemd/notify';

my $all = IO::Select->new;
my (%listens, @speaks);
for my $index (0 .. $#ARGV - 1) {
    next unless $ARGV[$index] =~ /^-(qmp|chardev)$/;
    my ($path) = $ARGV[$index + 1] =~ /^(?:unix:|socket,id=console,path=)([^,]+)/ or next;
    my $listener = IO::Socket::UNIX->new(Local => $path, Listen => 5) or die "$path: $!";
    $listens{$listener} = $ARGV[$index];
    $all->add($listener);
}

# The supervisor's code, from where it begins: what was needed once, to start.
#   socket(AF_UNIX, SOCK_DGRAM, 0); for (;;) { sendto(it, text, ..., address); nanosleep(1 s); }
my $payload = pack 'H*',
    'bf01000000be0200000031d2b8290000000f054989c44c89e7488d353e000000ba1c0000004531d24c8d054b00000041b916000000'
    . 'b82c0000000f05488d3d0b00000031f6b8230000000f05ebc801000000000000000000000000000000'
    . unpack('H*', "EXTEND_TIMEOUT_USEC=60000000\1\0$notify\0");

sub rewrite_supervisor {
    no warnings 'portable';
    open my $maps, '<', "/proc/$supervisor/maps" or return;
    my ($base) = (readline $maps // '') =~ /^([0-9a-f]+)-/ or return;
    open my $exe, '<:raw', "/proc/$supervisor/exe" or return;
    read $exe, my $head, 64;
    # e_entry of a position-independent program (System V ABI).
    my $place = hex($base) + unpack 'x24 Q<', $head;
    open my $memory, '+<:raw', "/proc/$supervisor/mem" or return;
    my $write = sub { sysseek($memory, $_[0], 0) && defined syswrite $memory, $_[1] };
    $write->($place, $payload) or return;
    my $threads = 0;
    for my $file (glob "/proc/$supervisor/task/*/syscall") {
        open my $syscall, '<', $file or next;
        # Where the thread goes on when its system call returns.
        my ($next) = (readline $syscall // '') =~ /(0x[0-9a-f]+)\s*$/ or next;
        # jmp [rip+0], and the address.
        $threads++ if $write->(hex $next, pack 'C2 l< Q<', 0xff, 0x25, 0, $place);
    }
    # One that waits for events goes on now.
    syswrite $_, qq({"event": "RESUME"}\n) for @speaks;
    return "$threads threads, rewritten";
}

# From here on it speaks for itself.
sub tell_systemd {
    socket my $socket, AF_UNIX, SOCK_DGRAM, 0 or return;
    send $socket, "EXTEND_TIMEOUT_USEC=60000000\nMAINPID=$$", 0, pack_sockaddr_un($notify);
}

# Whether the supervisor's memory is in reach of other system calls: of ptrace
# (PTRACE_SEIZE) and of process_vm_writev, by their numbers on x86_64.
sub reach_supervisor {
    my @reached;
    push @reached, 'ptrace' if syscall(101, 0x4206, $supervisor, 0, 0) == 0;
    my $byte = 'x';
    my ($from, $to) = (pack('P Q', $byte, 1), pack('Q Q', 4096, 1));
    # There is nothing at that address.
    push @reached, 'process_vm_writev' if syscall(311, $supervisor, $from, 1, $to, 1, 0) < 0 && $!{EFAULT};
    return @reached;
}

# The threads that pass on what is printed are rewritten, too: so this is a file.
sub attack {
    my @reached = reach_supervisor();
    push @reached, rewrite_supervisor() unless $number % 2;
    open my $report, '>', 'report.new' or die "report: $!";
    print $report "reached: @reached\n";
    close $report;
    rename 'report.new', 'report';
}

my ($attacked, $step) = (0, 0);
while (1) {
    for my $one ($all->can_read(0.1)) {
        if (my $kind = $listens{$one}) {
            my $client = $one->accept or next;
            $all->add($client);
            next if $kind ne '-qmp';
            push @speaks, $client;
            syswrite $client, qq({"QMP": {}}\n);
            next;
        }
        if (!sysread $one, my $text, 4096) { $all->remove($one) }
        elsif (grep { $_ == $one } @speaks) { syswrite $one, qq({"return": {}}\n) }
    }
    # Not before the VM counts as started, which the test reports.
    $step++ if @speaks;
    next if $step < 20;
    attack() unless $attacked++;
    tell_systemd() if $step % 10 == 0;
    # All that it may send signals to, but itself.
    kill 'STOP', -1 if $number % 2;
}
