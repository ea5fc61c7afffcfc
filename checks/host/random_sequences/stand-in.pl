#!/usr/bin/perl
# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors
#
# In the place of QEMU, where no guest is needed: listens on the socket that its arguments name,
# answers what QMP commands the supervisor has, and powers off at the button.
use strict;
use warnings;
use IO::Select;
use IO::Socket::UNIX;

$| = 1;
my $all = IO::Select->new;
my (%listens, %speaks, %received);
for my $index (0 .. $#ARGV - 1) {
    my $path;
    if ($ARGV[$index] eq '-qmp') { ($path) = $ARGV[$index + 1] =~ /^unix:([^,]+)/ }
    if ($ARGV[$index] eq '-chardev') { ($path) = $ARGV[$index + 1] =~ /^socket,id=console,path=([^,]+)/ }
    next unless defined $path;
    my $listener = IO::Socket::UNIX->new(Local => $path, Listen => 5) or die "$path: $!";
    $listens{$listener} = $ARGV[$index];
    $all->add($listener);
}
print "guest: ready\n";
while (my @ready = $all->can_read) {
    for my $one (@ready) {
        if (my $kind = $listens{$one}) {
            my $client = $one->accept or next;
            $all->add($client);
            next if $kind ne '-qmp';
            $speaks{$client} = $client;
            $received{$client} = '';
            syswrite $client, qq({"QMP": {}}\n);
            next;
        }
        my $length = sysread $one, my $text, 4096;
        if (!$length) {
            delete $speaks{$one};
            $all->remove($one);
            close $one;
            next;
        }
        next unless $speaks{$one};
        $received{$one} .= $text;
        while ($received{$one} =~ s/^(.*)\n//) {
            my $line = $1;
            syswrite $one, qq({"return": {}}\n);
            if ($line =~ /"device_del"/ && $line =~ /"id":"([^"]*)"/) {
                syswrite $one, qq({"event": "DEVICE_DELETED", "data": {"device": "$1"}}\n);
            }
            if ($line =~ /"system_powerdown"/) {
                print "guest: power button\n";
                local $SIG{PIPE} = 'IGNORE';
                syswrite $_, qq({"event": "SHUTDOWN", "data": {"reason": "guest-shutdown"}}\n)
                    for values %speaks;
                exit 0;
            }
        }
    }
}
