#!/usr/bin/perl
# Written by fleet. Tells the balancers how the GPUs of this host are: HAProxy's agent-check asks for a slot by
# its name and gets one line. docs/agent.md says what each answer means, docs/decisions/0008 why this is Perl.
#
#   fleet-gpu-agent               answer (systemd runs it so)
#   fleet-gpu-agent show          what would be answered now
#   fleet-gpu-agent accept SLOT   take what was found until now (Xids, memory errors) as dealt with
use strict;
use warnings;
use Errno qw(EAGAIN EINTR);
use IO::Handle;
use IO::Select;
use POSIX qw(WNOHANG);
use Socket qw(:DEFAULT inet_pton inet_ntop IPPROTO_IPV6 IPV6_V6ONLY getaddrinfo AI_NUMERICHOST);

my $CONF   = $ENV{FLEET_AGENT_CONF}   || '/etc/fleet/gpu-agent.conf';
my $STATE  = $ENV{FLEET_AGENT_STATE}  || '/var/lib/fleet-gpu-agent';
my $DOCKER = $ENV{FLEET_AGENT_DOCKER} || '/run/docker.sock';

# Xids after which NVIDIA's catalogue wants the GPU reset or the host restarted. Others end a program or tell of
# links between GPUs, which slots do not use.
my %STOP = (
    46  => 'GPU stopped processing',
    48  => 'double-bit ECC error',
    62  => 'micro-controller halt',
    64  => 'memory remapping failed',
    95  => 'uncontained memory error',
    109 => 'context switch timeout',
    110 => 'security fault',
    119 => 'GSP timeout',
    120 => 'GSP error',
    140 => 'unrecovered ECC error',
    143 => 'GPU initialization failed',
    156 => 'resource retirement',
    158 => 'GPU fatal timeout',
    167 => 'PCIe fatal timeout',
);
my $LOST_XID = 79;
my $IP_FREEBIND = 15;
my $TICKS = POSIX::sysconf(POSIX::_SC_CLK_TCK());

my (@slots, %slot, @allow, %conf);

# -- what is known -------------------------------------------------------------------------------------------

my (%reading, %suspect, %xids, %accepted, %hot, %told, %said, %held);
my ($containers, $asked_docker, $read_log);

# A slot's answer: (word, weight in percent or undef, reason). Nothing while too little is known.
sub verdict {
    my ($s) = @_;
    my $now = $reading{ $s->{name} };
    return unless $now && $asked_docker && $read_log;
    my @found = grep { $_->{time} > ($accepted{ $s->{name} }{time} || 0) } @{ $xids{ $s->{pci} } || [] };
    return ('down', undef, "GPU lost (Xid $LOST_XID)") if grep { $_->{code} == $LOST_XID } @found;
    return ('down', undef, $now->{lost} =~ /lost/i ? $now->{lost} : "GPU lost: $now->{lost}") if $now->{lost};
    if ($containers) {
        my @mine = @{ $containers->{ $s->{name} } || [] };
        return ('down', undef, 'no running container') unless @mine;
        return ('down', undef, "its container is for another GPU ($mine[0])")
            unless grep { $_ eq $s->{uuid} } @mine;
    }
    return ('up', 0, "Xid $found[0]{code} ($found[0]{text})") if @found;
    if (my $said = $now->{failed}) {
        # What runs keeps the old libraries open and works on; only new processes would fail.
        return ('up', undef, $said) if $said =~ /version mismatch/i;
        return ('up', 0, $said);
    }
    return ('up', 0, "the driver wants it: $now->{action}") if $now->{action};
    my $errors = ($now->{ecc} || 0) - ($accepted{ $s->{name} }{ecc} || 0);
    return ('up', 0, $errors == 1 ? '1 uncorrected memory error' : "$errors uncorrected memory errors")
        if $errors > 0;
    return ('up', 50, $hot{ $s->{name} }{text}) if $hot{ $s->{name} };
    return ('up', undef, '');
}

# The line for one balancer. A weight that it was told must be taken back once, and only from whom it was told:
# otherwise the weight belongs to whoever set it there.
sub answer {
    my ($s, $peer) = @_;
    my ($word, $weight, $reason) = verdict($s) or return '';
    my $key = "$s->{name}\@$peer";
    if (defined $weight) {
        hold($key);
    }
    elsif ($word eq 'up' && $held{$key}) {
        $weight = 100;
        my $given = $held{$key};
        $given->{since} ||= now();
        if (++$given->{times} >= 3 && now() - $given->{since} >= 2 * $conf{every}) {
            delete $held{$key};
            unlink "$STATE/held/$key";
        }
    }
    return line($word, $weight, $reason);
}

sub line {
    my ($word, $weight, $reason) = @_ or return '';
    return join(' ', $word, defined $weight ? "$weight%" : (), $reason ne '' ? "#$reason" : ()) . "\n";
}

sub hold {
    my ($key) = @_;
    put("$STATE/held/$key", '') unless $held{$key};
    $held{$key} = { times => 0, since => 0 };
}

# -- the driver ----------------------------------------------------------------------------------------------

my @fields = qw(uuid pci.bus_id temperature.gpu ecc.errors.uncorrected.volatile.total
    clocks_throttle_reasons.hw_thermal_slowdown gpu_recovery_action);
my ($stuck, %round);
my %next = (driver => 0, docker => 0, log => 0, names => 0, accepted => 0);

sub ask_driver {
    if ($stuck) {    # one that cannot be killed is enough
        $next{driver} = now() + $conf{every};
        return;
    }
    %round = ();
    query(undef);
}

sub query {
    my ($uuid) = @_;
    my @only = defined $uuid ? ('-i', $uuid) : ();
    my $wanted = join ',', @fields;
    spawn(
        ['nvidia-smi', @only, "--query-gpu=$wanted", '--format=csv,noheader,nounits'],
        $conf{patience}, undef, sub { driver_said($uuid, @_) }
    )->{driver} = 1;
}

sub driver_said {
    my ($uuid, $rc, $out) = @_;
    if ($out =~ /Field "([^"]+)" is not a valid field/ && $1 ne 'uuid' && grep { $_ eq $1 } @fields) {
        my $unknown = $1;
        @fields = grep { $_ ne $unknown } @fields;
        return query($uuid);
    }
    my @asked = defined $uuid ? grep({ $_->{uuid} eq $uuid } @slots) : @slots;
    if (!defined $rc) {
        $round{ $_->{name} } = { failed => 'the driver does not answer' } for @asked;
    }
    elsif ($rc == 0 || $out =~ /^No devices (?:were )?found/mi) {
        my %row;
        for my $line (split /\n/, $out) {
            my @values = split /,\s*/, $line;
            $row{ $values[0] } = { map { $fields[$_] => $values[$_] } 0 .. $#fields } if @values == @fields;
        }
        $round{ $_->{name} } = row($row{ $_->{uuid} }) for @asked;
    }
    else {
        my ($text) = $out =~ /(\S.*)/;
        $text = $rc == 127 ? 'nvidia-smi is not installed' : "nvidia-smi ended with exit code $rc"
            unless defined $text && $rc != 127;
        my @named = grep { names_gpu($text, $_) } @asked;
        my $brief = $text =~ s/^.*[0-9a-f]{2}:[0-9a-f]{2}\.\d:?\s*//ir;
        $round{ $_->{name} } = { lost => plain($brief) } for @named;
        # One lost GPU silences the driver's table for all; each is asked for alone where nobody is named.
        if (!@named && !defined $uuid && @slots > 1) {
            $round{rest} = [ map { $_->{uuid} } @slots ];
        }
        elsif (!@named) {
            $round{ $_->{name} } = { failed => plain($text) } for @asked;
        }
    }
    my $another = shift @{ $round{rest} || [] };
    defined $another ? query($another) : judge();
}

sub row {
    my ($row) = @_;
    return { lost => 'the driver does not list it' } unless $row;
    my $lost = grep { /GPU is lost/i } values %$row;
    my $reset = grep { /requires reset/i } values %$row;
    my $action = $row->{gpu_recovery_action} // '';
    $action = '' if $action =~ /^(?:None|Drain P2P|\[.*|N\/A)?$/i;
    return {
        lost        => $lost ? 'the driver says so' : '',
        action      => $reset ? 'reset' : plain(lc $action),
        temperature => whole($row->{'temperature.gpu'}),
        ecc         => whole($row->{'ecc.errors.uncorrected.volatile.total'}),
        slow        => ($row->{'clocks_throttle_reasons.hw_thermal_slowdown'} // '') =~ /^Active/i ? 1 : 0,
    };
}

# Bad news must come twice: a driver that is being loaded or is very busy is not a lost GPU.
sub judge {
    my $again = 0;
    for my $s (@slots) {
        my $name = $s->{name};
        my $now = $round{$name};
        if ($now && ($now->{lost} || $now->{failed})) {
            if (!$suspect{$name}++ && !$stuck) { $again = 1; next }
        }
        else {
            $suspect{$name} = 0;
            judge_heat($s, $now) if $now;
            # The driver failed and named other GPUs: nothing new is known of this one.
            $now ||= { %{ $reading{$name} || {} }, lost => '', failed => '' };
        }
        $reading{$name} = $now;
    }
    $next{driver} = now() + ($again ? $conf{every} / 5 : $conf{every});
}

# Half the weight while hot, and until it was cooler by 5 degrees for some time.
sub judge_heat {
    my ($s, $now) = @_;
    my ($name, $degrees) = ($s->{name}, $now->{temperature});
    my $limit = $hot{$name} ? $conf{hot} - 5 : $conf{hot};
    if ($now->{slow} || (defined $degrees && $degrees >= $limit)) {
        my $text = $now->{slow} ? 'slowed down by heat' : 'hot';
        $hot{$name} = { until => now() + 4 * $conf{every}, text => defined $degrees ? "$text: $degrees C" : $text };
    }
    elsif ($hot{$name}) {
        $hot{$name}{text} = 'cooling down' . (defined $degrees ? ": $degrees C" : '');
        delete $hot{$name} if $hot{$name}{until} < now();
    }
}

sub names_gpu {
    my ($text, $s) = @_;
    while ($text =~ /\b([0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2})(?:\.\d)?\b/gi) {
        return 1 if $s->{pci} ne '' && pci($1) eq $s->{pci};
    }
    return index($text, $s->{uuid}) >= 0;
}

# One short line that a balancer can show.
sub plain {
    my ($text) = @_;
    $text =~ s/[^ -~]+/ /g;
    $text =~ s/\s+/ /g;
    return substr $text, 0, 100;
}

sub whole { my ($text) = @_; return defined $text && $text =~ /^\s*(\d+)/ ? $1 + 0 : undef }

# 00000000:3B:00.0 and 0000:3b:00 are the same device.
sub pci {
    my ($text) = @_;
    my ($domain, $bus, $device) = lc($text) =~ /([0-9a-f]+):([0-9a-f]+):([0-9a-f]+)/ or return '';
    return sprintf '%x:%x:%x', hex $domain, hex $bus, hex $device;
}

# -- the kernel's log ----------------------------------------------------------------------------------------

# First all of this boot to its end, then what comes. root may say such a thing itself: `logger -t kernel`.
sub read_log {
    my ($since) = @_;
    my $start = time() - 1;
    my @how = defined $since ? ('-f', '-n', 'all', "--since=\@$since") : ();
    spawn(
        [
            qw(journalctl -q -b -o short-unix --no-pager), @how, '--grep=NVRM: (Xid|loading)',
            qw(_TRANSPORT=kernel + SYSLOG_IDENTIFIER=kernel _UID=0)
        ],
        undef, \&log_line,
        sub {
            $read_log = 1;
            return read_log(int $start) unless defined $since;
            $next{log} = now() + $conf{every};
        }
    );
    $next{log} = undef;
}

sub log_line {
    my ($line) = @_;
    my ($time, $text) = $line =~ /^(\d+(?:\.\d+)?) \S+ kernel(?:\[\d+\])?: .*?(NVRM: .*)/ or return;
    if ($text =~ /^NVRM: loading/) { %xids = (); return }    # a driver loaded anew has reset its GPUs
    my ($device, $code, $rest) = $text =~ /^NVRM: Xid \((?:PCI:)?([0-9a-f:.]+)\): (\d+),?\s*(.*)/i or return;
    my $known = $xids{ pci($device) } ||= [];
    my $what = $code == $LOST_XID ? 'GPU lost' : $STOP{$code};
    if ($code == 154 && $rest =~ /to 0x\w+ \(([^)]*)\)/) {
        my $action = $1;
        if ($action =~ /^None/i) { @$known = (); return }
        $what = lc $action unless $action =~ /P2P/i && $action !~ /reset/i;
    }
    return unless defined $what && !grep { $_->{code} == $code && $_->{time} >= $time } @$known;
    @$known = grep { $_->{code} != $code } @$known;
    push @$known, { code => $code, time => $time, text => $what };
}

# -- the engine ----------------------------------------------------------------------------------------------

sub ask_docker {
    socket(my $engine, PF_UNIX, SOCK_STREAM, 0) or return docker_said('');
    $engine->blocking(0);
    connect($engine, sockaddr_un($DOCKER)) or return docker_said('');
    my $filters = '%7B%22label%22%3A%5B%22fleet.slot%22%5D%2C%22status%22%3A%5B%22running%22%5D%7D';
    syswrite $engine, "GET /containers/json?filters=$filters HTTP/1.0\r\nHost: d\r\n\r\n";
    listen_to($engine, undef, $conf{patience}, undef, sub { docker_said($_[1]) });
}

# An engine that does not answer says nothing about containers; they outlive it.
sub docker_said {
    my ($answer) = @_;
    $asked_docker = 1;
    $containers = undef;
    if ($answer =~ m{^HTTP/1\.\d 200 .*?\r\n\r\n(.*\])\s*\z}s) {
        my ($list, %found) = ($1);
        while ($list =~ /"Labels":\{((?:"(?:[^"\\]|\\.)*":"(?:[^"\\]|\\.)*",?)*)\}/g) {
            my %label = $1 =~ /"((?:[^"\\]|\\.)*)":"((?:[^"\\]|\\.)*)"/g;
            push @{ $found{ $label{'fleet.slot'} } }, $label{'fleet.gpu'} // '' if defined $label{'fleet.slot'};
        }
        $containers = \%found;
    }
    $next{docker} = now() + $conf{every} * 2 / 5;
}

# -- what an operator accepted -------------------------------------------------------------------------------

sub read_accepted {
    for my $s (@slots) {
        my $file = "$STATE/accepted/$s->{name}";
        my ($time, $ecc) = (get($file) // '') =~ /^(\d+)(?: (\d+))?$/ or do { delete $accepted{ $s->{name} }; next };
        my $now = $reading{ $s->{name} };
        my $count = $now ? $now->{ecc} : undef;
        # The count starts anew with the driver.
        if (defined $count && (!defined $ecc || $count < $ecc)) {
            $ecc = $count;
            put($file, "$time $ecc\n");
        }
        $accepted{ $s->{name} } = { time => $time, ecc => $ecc };
    }
    $next{accepted} = now() + $conf{every};
}

# -- who may ask ---------------------------------------------------------------------------------------------

my %resolved;

sub resolve_names {
    for my $name (grep { !defined network($_) } @allow) {
        my @found;
        spawn(
            ['getent', 'ahosts', $name], $conf{patience},
            sub { push @found, $1 if $_[0] =~ /^(\S+)/ },
            sub { $resolved{$name} = [@found] if @found }
        );
    }
    $next{names} = now() + 60;
}

# (bits of the address, prefix length), or undef for a name.
sub network {
    my ($text) = @_;
    my ($address, $length) = split m{/}, $text, 2;
    my $packed = inet_pton(AF_INET, $address) // inet_pton(AF_INET6, $address) // return undef;
    my $bits = unpack 'B*', $packed;
    return [ $bits, $length // length $bits ];
}

sub may_ask {
    my ($peer) = @_;
    my $bits = network($peer)->[0];
    for my $each (map { defined network($_) ? $_ : @{ $resolved{$_} || [] } } @allow) {
        my ($net, $length) = @{ network($each) || next };
        return 1 if length $net == length $bits && substr($net, 0, $length) eq substr($bits, 0, $length);
    }
    return 0;
}

# -- the loop ------------------------------------------------------------------------------------------------

my ($select, %jobs, @ending);

sub serve {
    $SIG{PIPE} = 'IGNORE';
    $ENV{LC_ALL} = 'C';
    STDERR->autoflush(1);
    mkdir $_ for $STATE, "$STATE/held", "$STATE/accepted";
    for my $file (glob "$STATE/held/*") {
        my ($name) = $file =~ m{/([^/@]+)@[^/]+$};
        if ($name && $slot{$name}) { $held{ $file =~ s{.*/}{}r } = { times => 0, since => 0 } }
        else                       { unlink $file }
    }
    my $server = listening();
    $select = IO::Select->new($server);
    while (1) {
        my $now = now();
        for ([ driver => \&ask_driver ], [ docker => \&ask_docker ], [ log => \&read_log ],
            [ names => \&resolve_names ], [ accepted => \&read_accepted ])
        {
            my ($what, $ask) = @$_;
            next unless defined $next{$what} && $next{$what} <= $now;
            $next{$what} = undef;
            $ask->();
        }
        for my $ready ($select->can_read($conf{every} / 25)) {
            $ready == $server ? welcome($server) : hear($ready);
        }
        tidy();
        tell_journal();
    }
}

sub listening {
    my ($address, $port) = @conf{qw(address port)};
    my $six = $address eq '*' || $address =~ /:/;
    my $socket;
    socket($socket, $six ? PF_INET6 : PF_INET, SOCK_STREAM, 0)
        or $address ne '*'
        or socket($socket, PF_INET, SOCK_STREAM, $six = 0);
    setsockopt $socket, SOL_SOCKET, SO_REUSEADDR, 1;
    setsockopt $socket, IPPROTO_IPV6, IPV6_V6ONLY, 0 if $address eq '*' && $six;
    setsockopt $socket, 0, $IP_FREEBIND, 1;    # the network may come up after this
    my $host = $address ne '*' ? $address : $six ? '::' : '0.0.0.0';
    my $where = $six ? pack_sockaddr_in6($port, inet_pton(AF_INET6, $host)) : sockaddr_in($port, inet_aton($host));
    bind($socket, $where) && listen($socket, 128) or die "cannot listen on $address port $port: $!\n";
    $socket->blocking(0);
    return $socket;
}

# Others than the balancers are hung up on without a word.
sub welcome {
    my ($server) = @_;
    while (1) {
        my $from = accept(my $client, $server) or last;
        my ($peer, $mine) = map { numeric($_) } $from, getsockname $client;
        next unless $peer eq $mine || may_ask($peer);
        next if keys %jobs > 256;
        $client->blocking(0);
        listen_to(
            $client, undef, 2,
            sub {
                my ($asked, $job) = @_;
                my ($looking, $name) = $asked =~ /^(\?)?(\S+)\s*$/;
                my $s = defined $name ? $slot{$name} : undef;
                syswrite $client, $looking ? line(verdict($s)) : answer($s, $peer) if $s;
                end($job);
            },
            undef
        );
    }
}

sub numeric {
    my ($from) = @_;
    my $six = sockaddr_family($from) == AF_INET6;
    my (undef, $packed) = $six ? unpack_sockaddr_in6($from) : sockaddr_in($from);
    my $text = inet_ntop($six ? AF_INET6 : AF_INET, $packed);
    return $text =~ s/^::ffff:(?=\d+\.)//ir;
}

# Runs a program; `line` gets each line of what it says, `done` its exit code and all it said. The exit code is
# undef for one that took more than `patience` seconds.
sub spawn {
    my ($argv, $patience, $line, $done) = @_;
    pipe(my $from, my $to) or die "pipe: $!";
    my $pid = fork // die "fork: $!";
    if (!$pid) {
        setpgrp;
        open STDIN, '<', '/dev/null';
        open STDOUT, '>&', $to;
        open STDERR, '>&', $to;
        { no warnings; exec @$argv }
        POSIX::_exit(127);
    }
    close $to;
    $from->blocking(0);
    return listen_to($from, $pid, $patience, $line, $done);
}

sub listen_to {
    my ($handle, $pid, $patience, $line, $done) = @_;
    my $job = $jobs{ fileno $handle } = {
        handle => $handle, pid => $pid, line => $line, done => $done, said => '',
        until => defined $patience ? now() + $patience : undef,
    };
    $select->add($handle);
    return $job;
}

sub hear {
    my ($handle) = @_;
    my $job = $jobs{ fileno $handle } or return;
    my $got = sysread $handle, $job->{said}, 65536, length $job->{said};
    return if !defined $got && ($! == EAGAIN || $! == EINTR);
    if ($job->{line}) {
        while ($job->{said} =~ s/^(.*)\n//) {
            $job->{line}->($1, $job);
            return unless $job->{handle};
        }
    }
    end($job) if !$got || (!$job->{pid} && $job->{line} && length $job->{said} > 256) || length $job->{said} > 4e6;
}

sub end {
    my ($job) = @_;
    return unless $job->{handle};
    $select->remove($job->{handle});
    delete $jobs{ fileno $job->{handle} };
    close delete $job->{handle};
    if ($job->{pid}) {
        $job->{until} //= now() + $conf{patience};
        push @ending, $job;
    }
    elsif ($job->{done}) {
        $job->{done}->(undef, $job->{said});
    }
}

# Programs that ended are reported; those out of time are killed; one that cannot be killed hangs in the driver.
sub tidy {
    for my $job (values %jobs) {
        next unless defined $job->{until} && $job->{until} < now();
        $job->{late} = 1;
        end($job);
    }
    for my $job (splice @ending) {
        if (waitpid($job->{pid}, WNOHANG)) {
            my $rc = $? & 127 ? 128 + ($? & 127) : $? >> 8;
            $stuck = undef if $stuck && $stuck == $job->{pid};
            $job->{done}->($job->{late} ? undef : $rc, $job->{said}) if $job->{done};
            next;
        }
        push @ending, $job;
        next if $job->{until} >= now();
        kill 'KILL', -$job->{pid}, $job->{pid} unless $job->{late}++ > 1;
        if ($job->{until} + 1 < now() && $job->{done}) {
            $stuck = $job->{pid} if $job->{driver};
            (delete $job->{done})->(undef, '');
        }
    }
}

sub tell_journal {
    for my $s (@slots) {
        my ($word, $weight, $reason) = verdict($s) or next;
        $reason =~ s/: \d+ C$//;
        my $line = join ' ', $word, defined $weight ? "$weight%" : (), $reason;
        next if ($said{ $s->{name} } // '') eq $line;
        print STDERR "$s->{name}: $line\n";
        $said{ $s->{name} } = $line;
    }
}

# Seconds since some time ago; the clock of the day may be set.
sub now { return (POSIX::times())[0] / $TICKS }

# -- commands and files --------------------------------------------------------------------------------------

sub read_conf {
    %conf = (address => '*', port => 7859, every => 5, patience => 5, hot => 90);
    open my $file, '<', $CONF or die "cannot read $CONF: $!\n";
    while (<$file>) {
        my ($key, @words) = split ' ';
        next if !defined $key || $key =~ /^#/;
        if    ($key eq 'listen') { @conf{qw(address port)} = @words }
        elsif ($key eq 'allow')  { push @allow, @words }
        elsif ($key eq 'slot')   { push @slots, { name => $words[0], uuid => $words[1], pci => pci($words[2] // '') } }
        else                     { $conf{$key} = $words[0] }
    }
    %slot = map { $_->{name} => $_ } @slots;
}

sub show {
    my $address = $conf{address} eq '*' ? '127.0.0.1' : $conf{address};
    my (undef, $where) = getaddrinfo($address, $conf{port}, { flags => AI_NUMERICHOST, socktype => SOCK_STREAM });
    for my $s (@slots) {
        my $said = '';
        if ($where && socket(my $agent, $where->{family}, SOCK_STREAM, 0)) {
            local $SIG{ALRM} = sub { };
            alarm 3;
            if (connect $agent, $where->{addr}) { syswrite $agent, "?$s->{name}\n"; sysread $agent, $said, 256 }
            alarm 0;
        }
        print "$s->{name}  ", $said || "no answer\n";
    }
}

sub accept_findings {
    my ($name) = @_;
    if (!$slot{$name}) { print STDERR "$name is no slot of this host\n"; exit 2 }
    mkdir $_ for $STATE, "$STATE/accepted";
    put("$STATE/accepted/$name", (time() + 1) . "\n");    # the log has fractions of this second
    print "$name: what was found until now is accepted\n";
}

sub get { my ($path) = @_; open my $file, '<', $path or return undef; return scalar <$file> }

sub put {
    my ($path, $text) = @_;
    my $new = "$path.new";
    if (open my $file, '>', $new) {
        print $file $text;
        return if close $file and rename $new, $path;
    }
    print STDERR "cannot write $path: $!\n";
}

read_conf();
my $command = shift(@ARGV) // 'serve';
if    ($command eq 'show'   && !@ARGV)     { show() }
elsif ($command eq 'accept' && @ARGV == 1) { accept_findings($ARGV[0]) }
elsif ($command eq 'serve'  && !@ARGV)     { serve() }
else { print STDERR "usage: fleet-gpu-agent [show | accept SLOT]\n"; exit 2 }
