# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_pointsman_global_optspecs
    string join \n h/help V/version
end

function __fish_pointsman_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_pointsman_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_pointsman_using_subcommand
    set -l cmd (__fish_pointsman_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c pointsman -n "__fish_pointsman_needs_command" -s h -l help -d 'Print help'
complete -c pointsman -n "__fish_pointsman_needs_command" -s V -l version -d 'Print version'
complete -c pointsman -n "__fish_pointsman_needs_command" -f -a "run" -d 'Serve connections, with a configuration file or with --listen and --backend'
complete -c pointsman -n "__fish_pointsman_needs_command" -f -a "upgrade" -d 'Move the sockets and the open connections of the running pointsman to this program'
complete -c pointsman -n "__fish_pointsman_needs_command" -f -a "check" -d 'Check a configuration file and report all its faults; binds no address'
complete -c pointsman -n "__fish_pointsman_needs_command" -f -a "health" -d 'Check that a running pointsman is alive; the exit code is then 0, else 1, and 2 for wrong arguments'
complete -c pointsman -n "__fish_pointsman_needs_command" -f -a "status" -d 'Print the state of a running pointsman: problems, listeners, pools, backends, the last events'
complete -c pointsman -n "__fish_pointsman_needs_command" -f -a "top" -d 'Show a running pointsman in the terminal: problems, charts, pools, connections; drain, pause and close by keys'
complete -c pointsman -n "__fish_pointsman_needs_command" -f -a "list" -d 'Add entries to the lists of a running pointsman, remove them, or show the lists'
complete -c pointsman -n "__fish_pointsman_needs_command" -f -a "drain" -d 'Send no new connections to a backend; open connections stay'
complete -c pointsman -n "__fish_pointsman_needs_command" -f -a "maintenance" -d 'Send no new connections to a backend and pause its checks; open connections stay'
complete -c pointsman -n "__fish_pointsman_needs_command" -f -a "ready" -d 'Put a backend in use again, after `drain` or `maintenance`'
complete -c pointsman -n "__fish_pointsman_needs_command" -f -a "weight" -d 'Change the weight of a backend'
complete -c pointsman -n "__fish_pointsman_needs_command" -f -a "split" -d 'Change the shares of pools in a route, such as for a canary'
complete -c pointsman -n "__fish_pointsman_needs_command" -f -a "pause" -d 'Let new connections of a pool wait, such as for the failover of a database'
complete -c pointsman -n "__fish_pointsman_needs_command" -f -a "resume" -d 'End the pause of a pool'
complete -c pointsman -n "__fish_pointsman_needs_command" -f -a "rebalance" -d 'Close the connections of a pool that would go to another backend now, one after the other'
complete -c pointsman -n "__fish_pointsman_needs_command" -f -a "leave" -d 'Answer 503 at /ready, so that balancers in front send new clients elsewhere; all else goes on'
complete -c pointsman -n "__fish_pointsman_needs_command" -f -a "join" -d 'Answer at /ready as before `leave`'
complete -c pointsman -n "__fish_pointsman_needs_command" -f -a "reload" -d 'Read the configuration file again, and print the changes'
complete -c pointsman -n "__fish_pointsman_needs_command" -f -a "log" -d 'Change the level of the log'
complete -c pointsman -n "__fish_pointsman_needs_command" -f -a "overrides" -d 'Print the changes that operators made at run time, as JSON'
complete -c pointsman -n "__fish_pointsman_needs_command" -f -a "config" -d 'Print the keys that are in force in a running pointsman, with the origins of their values'
complete -c pointsman -n "__fish_pointsman_needs_command" -f -a "explain" -d 'Show what happens to a connection and why: lists, route, backend; the exit code is 3 if it is refused'
complete -c pointsman -n "__fish_pointsman_needs_command" -f -a "connections" -d 'List the open connections of a running pointsman, show one, or close some'
complete -c pointsman -n "__fish_pointsman_needs_command" -f -a "routes" -d 'List the routes of a running pointsman with the time of their last use'
complete -c pointsman -n "__fish_pointsman_needs_command" -f -a "fleet-check" -d 'Compare the nodes of a fleet, and print what differs; the exit code is 0 if they are equal, else 1'
complete -c pointsman -n "__fish_pointsman_needs_command" -f -a "tproxy-rules" -d 'Print a shell script with the network rules that `source = "client"` needs'
complete -c pointsman -n "__fish_pointsman_needs_command" -f -a "fleet-rules" -d 'Print the rules by which several nodes serve one address, so that a node that leaves breaks no connection'
complete -c pointsman -n "__fish_pointsman_needs_command" -f -a "schema" -d 'Print the JSON Schema of the configuration file'
complete -c pointsman -n "__fish_pointsman_needs_command" -f -a "completions" -d 'Print a script that completes the commands and options of pointsman in a shell'
complete -c pointsman -n "__fish_pointsman_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c pointsman -n "__fish_pointsman_using_subcommand run" -l listen -d 'Without a file: an address to listen on, such as `:5432` or `127.0.0.1:5432`; may be repeated' -r
complete -c pointsman -n "__fish_pointsman_using_subcommand run" -l backend -d 'Without a file: a backend, such as `10.0.0.1:5432` or `db1:5432`; may be repeated' -r
complete -c pointsman -n "__fish_pointsman_using_subcommand run" -l admin -d 'A further admin listener, beside those of the file: `unix:/PATH` or an address' -r
complete -c pointsman -n "__fish_pointsman_using_subcommand run" -l socket -d 'The socket of the running pointsman; the default is `[handover] socket`, else handover.sock in $RUNTIME_DIRECTORY' -r -F
complete -c pointsman -n "__fish_pointsman_using_subcommand run" -l take-over -d 'Take the listening sockets and the open connections of the running pointsman; if none is running, this is an ordinary start'
complete -c pointsman -n "__fish_pointsman_using_subcommand run" -l report -d 'Report each step at standard input, which is a socket of `pointsman upgrade`'
complete -c pointsman -n "__fish_pointsman_using_subcommand run" -s h -l help -d 'Print help'
complete -c pointsman -n "__fish_pointsman_using_subcommand upgrade" -l socket -d 'The socket of the running program; the default is `[handover] socket` of the file, else handover.sock in $RUNTIME_DIRECTORY, else /run/pointsman/handover.sock' -r -F
complete -c pointsman -n "__fish_pointsman_using_subcommand upgrade" -l admin -d 'The further admin listener of the new program; the default is that of the running program' -r
complete -c pointsman -n "__fish_pointsman_using_subcommand upgrade" -l again -d 'Start a new process even if the running program has the same version and file'
complete -c pointsman -n "__fish_pointsman_using_subcommand upgrade" -s h -l help -d 'Print help'
complete -c pointsman -n "__fish_pointsman_using_subcommand check" -s h -l help -d 'Print help'
complete -c pointsman -n "__fish_pointsman_using_subcommand health" -l admin -d 'The address of the admin listener, or `unix:/PATH`. The default is POINTSMAN_ADMIN, else unix:/run/pointsman/admin.sock if this socket exists, else 127.0.0.1:10190' -r
complete -c pointsman -n "__fish_pointsman_using_subcommand health" -l token-file -d 'The file with the token of the admin listener: the file of admin.token_file' -r -F
complete -c pointsman -n "__fish_pointsman_using_subcommand health" -l ready -d 'Check instead that pointsman is ready: that /ready answers 200. Otherwise the reason is printed'
complete -c pointsman -n "__fish_pointsman_using_subcommand health" -s h -l help -d 'Print help'
complete -c pointsman -n "__fish_pointsman_using_subcommand status" -l admin -d 'The address of the admin listener, or `unix:/PATH`. The default is POINTSMAN_ADMIN, else unix:/run/pointsman/admin.sock if this socket exists, else 127.0.0.1:10190' -r
complete -c pointsman -n "__fish_pointsman_using_subcommand status" -l token-file -d 'The file with the token of the admin listener: the file of admin.token_file' -r -F
complete -c pointsman -n "__fish_pointsman_using_subcommand status" -l json -d 'Print the state as JSON'
complete -c pointsman -n "__fish_pointsman_using_subcommand status" -l all -d 'Print all backends that are up, and all events'
complete -c pointsman -n "__fish_pointsman_using_subcommand status" -s h -l help -d 'Print help'
complete -c pointsman -n "__fish_pointsman_using_subcommand top" -l interval -d 'The time between two rounds of requests' -r
complete -c pointsman -n "__fish_pointsman_using_subcommand top" -l view -d 'The table that is shown first' -r -f -a "pools\t''
connections\t''
sources\t''
names\t''
events\t''
overrides\t''
listeners\t''"
complete -c pointsman -n "__fish_pointsman_using_subcommand top" -l admin -d 'The address of the admin listener, or `unix:/PATH`. The default is POINTSMAN_ADMIN, else unix:/run/pointsman/admin.sock if this socket exists, else 127.0.0.1:10190' -r
complete -c pointsman -n "__fish_pointsman_using_subcommand top" -l token-file -d 'The file with the token of the admin listener: the file of admin.token_file' -r -F
complete -c pointsman -n "__fish_pointsman_using_subcommand top" -l once -d 'Print one frame as text and end. It is COLUMNS wide, or 80, and LINES high, or as high as its content'
complete -c pointsman -n "__fish_pointsman_using_subcommand top" -s h -l help -d 'Print help'
complete -c pointsman -n "__fish_pointsman_using_subcommand list; and not __fish_seen_subcommand_from add remove show help" -s h -l help -d 'Print help'
complete -c pointsman -n "__fish_pointsman_using_subcommand list; and not __fish_seen_subcommand_from add remove show help" -f -a "add" -d 'Add a network or an address to a list; it stays until its time is over or the process ends'
complete -c pointsman -n "__fish_pointsman_using_subcommand list; and not __fish_seen_subcommand_from add remove show help" -f -a "remove" -d 'Remove an added entry from a list; remove an entry of a file in the file itself'
complete -c pointsman -n "__fish_pointsman_using_subcommand list; and not __fish_seen_subcommand_from add remove show help" -f -a "show" -d 'Show as JSON: all lists, one list with its added entries, or the reason why a list has an address'
complete -c pointsman -n "__fish_pointsman_using_subcommand list; and not __fish_seen_subcommand_from add remove show help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c pointsman -n "__fish_pointsman_using_subcommand list; and __fish_seen_subcommand_from add" -l ttl -d 'The time that the entry stays, such as `1h` or `7days`; the default is until the process ends' -r
complete -c pointsman -n "__fish_pointsman_using_subcommand list; and __fish_seen_subcommand_from add" -l admin -d 'The address of the admin listener, or `unix:/PATH`. The default is POINTSMAN_ADMIN, else unix:/run/pointsman/admin.sock if this socket exists, else 127.0.0.1:10190' -r
complete -c pointsman -n "__fish_pointsman_using_subcommand list; and __fish_seen_subcommand_from add" -l token-file -d 'The file with the token of the admin listener: the file of admin.token_file' -r -F
complete -c pointsman -n "__fish_pointsman_using_subcommand list; and __fish_seen_subcommand_from add" -l force -d 'Allow a network with a prefix shorter than /8 (IPv4) or /16 (IPv6), which has a large part of all addresses'
complete -c pointsman -n "__fish_pointsman_using_subcommand list; and __fish_seen_subcommand_from add" -s h -l help -d 'Print help'
complete -c pointsman -n "__fish_pointsman_using_subcommand list; and __fish_seen_subcommand_from remove" -l admin -d 'The address of the admin listener, or `unix:/PATH`. The default is POINTSMAN_ADMIN, else unix:/run/pointsman/admin.sock if this socket exists, else 127.0.0.1:10190' -r
complete -c pointsman -n "__fish_pointsman_using_subcommand list; and __fish_seen_subcommand_from remove" -l token-file -d 'The file with the token of the admin listener: the file of admin.token_file' -r -F
complete -c pointsman -n "__fish_pointsman_using_subcommand list; and __fish_seen_subcommand_from remove" -s h -l help -d 'Print help'
complete -c pointsman -n "__fish_pointsman_using_subcommand list; and __fish_seen_subcommand_from show" -l address -d 'The address to check' -r
complete -c pointsman -n "__fish_pointsman_using_subcommand list; and __fish_seen_subcommand_from show" -l admin -d 'The address of the admin listener, or `unix:/PATH`. The default is POINTSMAN_ADMIN, else unix:/run/pointsman/admin.sock if this socket exists, else 127.0.0.1:10190' -r
complete -c pointsman -n "__fish_pointsman_using_subcommand list; and __fish_seen_subcommand_from show" -l token-file -d 'The file with the token of the admin listener: the file of admin.token_file' -r -F
complete -c pointsman -n "__fish_pointsman_using_subcommand list; and __fish_seen_subcommand_from show" -s h -l help -d 'Print help'
complete -c pointsman -n "__fish_pointsman_using_subcommand list; and __fish_seen_subcommand_from help" -f -a "add" -d 'Add a network or an address to a list; it stays until its time is over or the process ends'
complete -c pointsman -n "__fish_pointsman_using_subcommand list; and __fish_seen_subcommand_from help" -f -a "remove" -d 'Remove an added entry from a list; remove an entry of a file in the file itself'
complete -c pointsman -n "__fish_pointsman_using_subcommand list; and __fish_seen_subcommand_from help" -f -a "show" -d 'Show as JSON: all lists, one list with its added entries, or the reason why a list has an address'
complete -c pointsman -n "__fish_pointsman_using_subcommand list; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c pointsman -n "__fish_pointsman_using_subcommand drain" -l for -d 'The time after which the change ends by itself, such as `2h`; the default is until `ready`' -r
complete -c pointsman -n "__fish_pointsman_using_subcommand drain" -l wait -d 'Wait until the backend has no open connection, at most this time, such as `10m`; without a time as long as it takes. The exit code is then 0, or 1 if connections are left' -r
complete -c pointsman -n "__fish_pointsman_using_subcommand drain" -l then-close -d 'Close the connections that are left after the wait, so many in a second, such as `20/s`; without --wait at once' -r
complete -c pointsman -n "__fish_pointsman_using_subcommand drain" -l admin -d 'The address of the admin listener, or `unix:/PATH`. The default is POINTSMAN_ADMIN, else unix:/run/pointsman/admin.sock if this socket exists, else 127.0.0.1:10190' -r
complete -c pointsman -n "__fish_pointsman_using_subcommand drain" -l token-file -d 'The file with the token of the admin listener: the file of admin.token_file' -r -F
complete -c pointsman -n "__fish_pointsman_using_subcommand drain" -l force -d 'Take the backend out of use even if it is the last one of its pool that takes connections'
complete -c pointsman -n "__fish_pointsman_using_subcommand drain" -s h -l help -d 'Print help'
complete -c pointsman -n "__fish_pointsman_using_subcommand maintenance" -l for -d 'The time after which the change ends by itself, such as `2h`; the default is until `ready`' -r
complete -c pointsman -n "__fish_pointsman_using_subcommand maintenance" -l wait -d 'Wait until the backend has no open connection, at most this time, such as `10m`; without a time as long as it takes. The exit code is then 0, or 1 if connections are left' -r
complete -c pointsman -n "__fish_pointsman_using_subcommand maintenance" -l then-close -d 'Close the connections that are left after the wait, so many in a second, such as `20/s`; without --wait at once' -r
complete -c pointsman -n "__fish_pointsman_using_subcommand maintenance" -l admin -d 'The address of the admin listener, or `unix:/PATH`. The default is POINTSMAN_ADMIN, else unix:/run/pointsman/admin.sock if this socket exists, else 127.0.0.1:10190' -r
complete -c pointsman -n "__fish_pointsman_using_subcommand maintenance" -l token-file -d 'The file with the token of the admin listener: the file of admin.token_file' -r -F
complete -c pointsman -n "__fish_pointsman_using_subcommand maintenance" -l force -d 'Take the backend out of use even if it is the last one of its pool that takes connections'
complete -c pointsman -n "__fish_pointsman_using_subcommand maintenance" -s h -l help -d 'Print help'
complete -c pointsman -n "__fish_pointsman_using_subcommand ready" -l admin -d 'The address of the admin listener, or `unix:/PATH`. The default is POINTSMAN_ADMIN, else unix:/run/pointsman/admin.sock if this socket exists, else 127.0.0.1:10190' -r
complete -c pointsman -n "__fish_pointsman_using_subcommand ready" -l token-file -d 'The file with the token of the admin listener: the file of admin.token_file' -r -F
complete -c pointsman -n "__fish_pointsman_using_subcommand ready" -s h -l help -d 'Print help'
complete -c pointsman -n "__fish_pointsman_using_subcommand weight" -l for -d 'The time after which the weight of the configuration is back, such as `2h`' -r
complete -c pointsman -n "__fish_pointsman_using_subcommand weight" -l admin -d 'The address of the admin listener, or `unix:/PATH`. The default is POINTSMAN_ADMIN, else unix:/run/pointsman/admin.sock if this socket exists, else 127.0.0.1:10190' -r
complete -c pointsman -n "__fish_pointsman_using_subcommand weight" -l token-file -d 'The file with the token of the admin listener: the file of admin.token_file' -r -F
complete -c pointsman -n "__fish_pointsman_using_subcommand weight" -s h -l help -d 'Print help'
complete -c pointsman -n "__fish_pointsman_using_subcommand split" -l for -d 'The time after which the shares of the configuration are back, such as `2h`' -r
complete -c pointsman -n "__fish_pointsman_using_subcommand split" -l admin -d 'The address of the admin listener, or `unix:/PATH`. The default is POINTSMAN_ADMIN, else unix:/run/pointsman/admin.sock if this socket exists, else 127.0.0.1:10190' -r
complete -c pointsman -n "__fish_pointsman_using_subcommand split" -l token-file -d 'The file with the token of the admin listener: the file of admin.token_file' -r -F
complete -c pointsman -n "__fish_pointsman_using_subcommand split" -s h -l help -d 'Print help'
complete -c pointsman -n "__fish_pointsman_using_subcommand pause" -l for -d 'The longest time of the pause, such as `60s`' -r
complete -c pointsman -n "__fish_pointsman_using_subcommand pause" -l wait -d 'Wait until the pool has no open connection, at most this time; without a time as long as the pause lasts. The exit code is then 0, or 1 if connections are left' -r
complete -c pointsman -n "__fish_pointsman_using_subcommand pause" -l admin -d 'The address of the admin listener, or `unix:/PATH`. The default is POINTSMAN_ADMIN, else unix:/run/pointsman/admin.sock if this socket exists, else 127.0.0.1:10190' -r
complete -c pointsman -n "__fish_pointsman_using_subcommand pause" -l token-file -d 'The file with the token of the admin listener: the file of admin.token_file' -r -F
complete -c pointsman -n "__fish_pointsman_using_subcommand pause" -s h -l help -d 'Print help'
complete -c pointsman -n "__fish_pointsman_using_subcommand resume" -l admin -d 'The address of the admin listener, or `unix:/PATH`. The default is POINTSMAN_ADMIN, else unix:/run/pointsman/admin.sock if this socket exists, else 127.0.0.1:10190' -r
complete -c pointsman -n "__fish_pointsman_using_subcommand resume" -l token-file -d 'The file with the token of the admin listener: the file of admin.token_file' -r -F
complete -c pointsman -n "__fish_pointsman_using_subcommand resume" -s h -l help -d 'Print help'
complete -c pointsman -n "__fish_pointsman_using_subcommand rebalance" -l rate -d 'The pace, such as `20/s`, `100/m` or `5/h`; the default is 20/s' -r
complete -c pointsman -n "__fish_pointsman_using_subcommand rebalance" -l most -d 'Close nothing if a larger part of the pool\'s connections would go elsewhere; the default is 10%. The exit code is then 3' -r
complete -c pointsman -n "__fish_pointsman_using_subcommand rebalance" -l admin -d 'The address of the admin listener, or `unix:/PATH`. The default is POINTSMAN_ADMIN, else unix:/run/pointsman/admin.sock if this socket exists, else 127.0.0.1:10190' -r
complete -c pointsman -n "__fish_pointsman_using_subcommand rebalance" -l token-file -d 'The file with the token of the admin listener: the file of admin.token_file' -r -F
complete -c pointsman -n "__fish_pointsman_using_subcommand rebalance" -l dry-run -d 'Close nothing, and print the number of connections that would go elsewhere'
complete -c pointsman -n "__fish_pointsman_using_subcommand rebalance" -s h -l help -d 'Print help'
complete -c pointsman -n "__fish_pointsman_using_subcommand leave" -l for -d 'The time after which the process is ready again, such as `10m`; the default is until `join`' -r
complete -c pointsman -n "__fish_pointsman_using_subcommand leave" -l wait -d 'Wait until no connection is open or the process has ended, at most this time, such as `30s`; without a time as long as it takes. The exit code is then 0, or 1 if connections are left; their numbers by listener are printed' -r
complete -c pointsman -n "__fish_pointsman_using_subcommand leave" -l admin -d 'The address of the admin listener, or `unix:/PATH`. The default is POINTSMAN_ADMIN, else unix:/run/pointsman/admin.sock if this socket exists, else 127.0.0.1:10190' -r
complete -c pointsman -n "__fish_pointsman_using_subcommand leave" -l token-file -d 'The file with the token of the admin listener: the file of admin.token_file' -r -F
complete -c pointsman -n "__fish_pointsman_using_subcommand leave" -s h -l help -d 'Print help'
complete -c pointsman -n "__fish_pointsman_using_subcommand join" -l admin -d 'The address of the admin listener, or `unix:/PATH`. The default is POINTSMAN_ADMIN, else unix:/run/pointsman/admin.sock if this socket exists, else 127.0.0.1:10190' -r
complete -c pointsman -n "__fish_pointsman_using_subcommand join" -l token-file -d 'The file with the token of the admin listener: the file of admin.token_file' -r -F
complete -c pointsman -n "__fish_pointsman_using_subcommand join" -s h -l help -d 'Print help'
complete -c pointsman -n "__fish_pointsman_using_subcommand reload" -l max-moved -d 'Keep the running configuration if a larger share of the keys of a pool would go to another backend, such as `5%`. The exit code is then 3' -r
complete -c pointsman -n "__fish_pointsman_using_subcommand reload" -l admin -d 'The address of the admin listener, or `unix:/PATH`. The default is POINTSMAN_ADMIN, else unix:/run/pointsman/admin.sock if this socket exists, else 127.0.0.1:10190' -r
complete -c pointsman -n "__fish_pointsman_using_subcommand reload" -l token-file -d 'The file with the token of the admin listener: the file of admin.token_file' -r -F
complete -c pointsman -n "__fish_pointsman_using_subcommand reload" -l reset -d 'End all overrides: what the configuration says is in force afterwards'
complete -c pointsman -n "__fish_pointsman_using_subcommand reload" -s h -l help -d 'Print help'
complete -c pointsman -n "__fish_pointsman_using_subcommand log" -l for -d 'The time after which the level of the configuration is back, such as `10m`' -r
complete -c pointsman -n "__fish_pointsman_using_subcommand log" -l admin -d 'The address of the admin listener, or `unix:/PATH`. The default is POINTSMAN_ADMIN, else unix:/run/pointsman/admin.sock if this socket exists, else 127.0.0.1:10190' -r
complete -c pointsman -n "__fish_pointsman_using_subcommand log" -l token-file -d 'The file with the token of the admin listener: the file of admin.token_file' -r -F
complete -c pointsman -n "__fish_pointsman_using_subcommand log" -s h -l help -d 'Print help'
complete -c pointsman -n "__fish_pointsman_using_subcommand overrides" -l admin -d 'The address of the admin listener, or `unix:/PATH`. The default is POINTSMAN_ADMIN, else unix:/run/pointsman/admin.sock if this socket exists, else 127.0.0.1:10190' -r
complete -c pointsman -n "__fish_pointsman_using_subcommand overrides" -l token-file -d 'The file with the token of the admin listener: the file of admin.token_file' -r -F
complete -c pointsman -n "__fish_pointsman_using_subcommand overrides" -s h -l help -d 'Print help'
complete -c pointsman -n "__fish_pointsman_using_subcommand config" -l admin -d 'The address of the admin listener, or `unix:/PATH`. The default is POINTSMAN_ADMIN, else unix:/run/pointsman/admin.sock if this socket exists, else 127.0.0.1:10190' -r
complete -c pointsman -n "__fish_pointsman_using_subcommand config" -l token-file -d 'The file with the token of the admin listener: the file of admin.token_file' -r -F
complete -c pointsman -n "__fish_pointsman_using_subcommand config" -l all -d 'Print also the keys that are not written, with their defaults'
complete -c pointsman -n "__fish_pointsman_using_subcommand config" -l json -d 'Print the keys as JSON'
complete -c pointsman -n "__fish_pointsman_using_subcommand config" -s h -l help -d 'Print help'
complete -c pointsman -n "__fish_pointsman_using_subcommand explain" -l listener -d 'The listener, as `[listener.NAME]` in the configuration' -r
complete -c pointsman -n "__fish_pointsman_using_subcommand explain" -l source -d 'The client\'s address, such as `203.0.113.7` or `203.0.113.7:4711`; `unix` for a client of a Unix socket' -r
complete -c pointsman -n "__fish_pointsman_using_subcommand explain" -l sni -d 'The server name in the client\'s hello' -r
complete -c pointsman -n "__fish_pointsman_using_subcommand explain" -l alpn -d 'A protocol that the hello offers by ALPN, such as `h2`; may be repeated, or be a list with commas' -r
complete -c pointsman -n "__fish_pointsman_using_subcommand explain" -l hello -d 'A file with a captured hello: the first bytes of a client, as TLS records' -r -F
complete -c pointsman -n "__fish_pointsman_using_subcommand explain" -l destination -d 'The address that the client connects to, if the listener has several' -r
complete -c pointsman -n "__fish_pointsman_using_subcommand explain" -l request -d 'The host and the port that the client requests by SOCKS or CONNECT, such as `api.test:443`' -r
complete -c pointsman -n "__fish_pointsman_using_subcommand explain" -l admin -d 'The address of the admin listener, or `unix:/PATH`. The default is POINTSMAN_ADMIN, else unix:/run/pointsman/admin.sock if this socket exists, else 127.0.0.1:10190' -r
complete -c pointsman -n "__fish_pointsman_using_subcommand explain" -l token-file -d 'The file with the token of the admin listener: the file of admin.token_file' -r -F
complete -c pointsman -n "__fish_pointsman_using_subcommand explain" -l running -d 'Ask the running pointsman, with the present states of its backends'
complete -c pointsman -n "__fish_pointsman_using_subcommand explain" -l json -d 'Print the report as JSON'
complete -c pointsman -n "__fish_pointsman_using_subcommand explain" -s h -l help -d 'Print help'
complete -c pointsman -n "__fish_pointsman_using_subcommand connections; and not __fish_seen_subcommand_from show kill close help" -l pool -d 'Connections of this pool' -r
complete -c pointsman -n "__fish_pointsman_using_subcommand connections; and not __fish_seen_subcommand_from show kill close help" -l backend -d 'Connections of this backend: `BACKEND` in all pools, or `POOL/BACKEND`' -r
complete -c pointsman -n "__fish_pointsman_using_subcommand connections; and not __fish_seen_subcommand_from show kill close help" -l listener -d 'Connections of this listener' -r
complete -c pointsman -n "__fish_pointsman_using_subcommand connections; and not __fish_seen_subcommand_from show kill close help" -l source -d 'Connections of clients in this network, such as 192.0.2.0/24' -r
complete -c pointsman -n "__fish_pointsman_using_subcommand connections; and not __fish_seen_subcommand_from show kill close help" -l sni -d 'Connections whose server name matches this pattern, such as `*.example.com`' -r
complete -c pointsman -n "__fish_pointsman_using_subcommand connections; and not __fish_seen_subcommand_from show kill close help" -l stage -d 'Connections in this stage' -r -f -a "reading\t''
queued\t''
dialing\t''
refusing\t''
relaying\t''"
complete -c pointsman -n "__fish_pointsman_using_subcommand connections; and not __fish_seen_subcommand_from show kill close help" -l older -d 'Connections that are open for at least this time, such as `1h`' -r
complete -c pointsman -n "__fish_pointsman_using_subcommand connections; and not __fish_seen_subcommand_from show kill close help" -l idle -d 'Connections without a byte for at least this time, such as `10m`' -r
complete -c pointsman -n "__fish_pointsman_using_subcommand connections; and not __fish_seen_subcommand_from show kill close help" -l sort -d 'The order: the largest value comes first; the default is age' -r -f -a "age\t''
bytes\t''
rate\t''
idle\t''"
complete -c pointsman -n "__fish_pointsman_using_subcommand connections; and not __fish_seen_subcommand_from show kill close help" -l limit -d 'The most connections to list, from 1 to 1000; the default is 100' -r
complete -c pointsman -n "__fish_pointsman_using_subcommand connections; and not __fish_seen_subcommand_from show kill close help" -l admin -d 'The address of the admin listener, or `unix:/PATH`. The default is POINTSMAN_ADMIN, else unix:/run/pointsman/admin.sock if this socket exists, else 127.0.0.1:10190' -r
complete -c pointsman -n "__fish_pointsman_using_subcommand connections; and not __fish_seen_subcommand_from show kill close help" -l token-file -d 'The file with the token of the admin listener: the file of admin.token_file' -r -F
complete -c pointsman -n "__fish_pointsman_using_subcommand connections; and not __fish_seen_subcommand_from show kill close help" -l json -d 'Print the list as JSON'
complete -c pointsman -n "__fish_pointsman_using_subcommand connections; and not __fish_seen_subcommand_from show kill close help" -s h -l help -d 'Print help'
complete -c pointsman -n "__fish_pointsman_using_subcommand connections; and not __fish_seen_subcommand_from show kill close help" -f -a "show" -d 'Show a connection: its names, the state of both sockets, what holds it up, commands that show more'
complete -c pointsman -n "__fish_pointsman_using_subcommand connections; and not __fish_seen_subcommand_from show kill close help" -f -a "kill" -d 'Close connections at once: both sides are reset'
complete -c pointsman -n "__fish_pointsman_using_subcommand connections; and not __fish_seen_subcommand_from show kill close help" -f -a "close" -d 'Close all connections that pass a filter, one after the other'
complete -c pointsman -n "__fish_pointsman_using_subcommand connections; and not __fish_seen_subcommand_from show kill close help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c pointsman -n "__fish_pointsman_using_subcommand connections; and __fish_seen_subcommand_from show" -l admin -d 'The address of the admin listener, or `unix:/PATH`. The default is POINTSMAN_ADMIN, else unix:/run/pointsman/admin.sock if this socket exists, else 127.0.0.1:10190' -r
complete -c pointsman -n "__fish_pointsman_using_subcommand connections; and __fish_seen_subcommand_from show" -l token-file -d 'The file with the token of the admin listener: the file of admin.token_file' -r -F
complete -c pointsman -n "__fish_pointsman_using_subcommand connections; and __fish_seen_subcommand_from show" -l json -d 'Print the connection as JSON'
complete -c pointsman -n "__fish_pointsman_using_subcommand connections; and __fish_seen_subcommand_from show" -s h -l help -d 'Print help'
complete -c pointsman -n "__fish_pointsman_using_subcommand connections; and __fish_seen_subcommand_from kill" -l admin -d 'The address of the admin listener, or `unix:/PATH`. The default is POINTSMAN_ADMIN, else unix:/run/pointsman/admin.sock if this socket exists, else 127.0.0.1:10190' -r
complete -c pointsman -n "__fish_pointsman_using_subcommand connections; and __fish_seen_subcommand_from kill" -l token-file -d 'The file with the token of the admin listener: the file of admin.token_file' -r -F
complete -c pointsman -n "__fish_pointsman_using_subcommand connections; and __fish_seen_subcommand_from kill" -s h -l help -d 'Print help'
complete -c pointsman -n "__fish_pointsman_using_subcommand connections; and __fish_seen_subcommand_from close" -l pool -d 'Connections of this pool' -r
complete -c pointsman -n "__fish_pointsman_using_subcommand connections; and __fish_seen_subcommand_from close" -l backend -d 'Connections of this backend: `BACKEND` in all pools, or `POOL/BACKEND`' -r
complete -c pointsman -n "__fish_pointsman_using_subcommand connections; and __fish_seen_subcommand_from close" -l listener -d 'Connections of this listener' -r
complete -c pointsman -n "__fish_pointsman_using_subcommand connections; and __fish_seen_subcommand_from close" -l source -d 'Connections of clients in this network, such as 192.0.2.0/24' -r
complete -c pointsman -n "__fish_pointsman_using_subcommand connections; and __fish_seen_subcommand_from close" -l sni -d 'Connections whose server name matches this pattern, such as `*.example.com`' -r
complete -c pointsman -n "__fish_pointsman_using_subcommand connections; and __fish_seen_subcommand_from close" -l stage -d 'Connections in this stage' -r -f -a "reading\t''
queued\t''
dialing\t''
refusing\t''
relaying\t''"
complete -c pointsman -n "__fish_pointsman_using_subcommand connections; and __fish_seen_subcommand_from close" -l older -d 'Connections that are open for at least this time, such as `1h`' -r
complete -c pointsman -n "__fish_pointsman_using_subcommand connections; and __fish_seen_subcommand_from close" -l idle -d 'Connections without a byte for at least this time, such as `10m`' -r
complete -c pointsman -n "__fish_pointsman_using_subcommand connections; and __fish_seen_subcommand_from close" -l rate -d 'The pace, such as `20/s`, `100/m` or `5/h`; the default is 20/s' -r
complete -c pointsman -n "__fish_pointsman_using_subcommand connections; and __fish_seen_subcommand_from close" -l admin -d 'The address of the admin listener, or `unix:/PATH`. The default is POINTSMAN_ADMIN, else unix:/run/pointsman/admin.sock if this socket exists, else 127.0.0.1:10190' -r
complete -c pointsman -n "__fish_pointsman_using_subcommand connections; and __fish_seen_subcommand_from close" -l token-file -d 'The file with the token of the admin listener: the file of admin.token_file' -r -F
complete -c pointsman -n "__fish_pointsman_using_subcommand connections; and __fish_seen_subcommand_from close" -l dry-run -d 'Close nothing, and print the number of connections that would be closed'
complete -c pointsman -n "__fish_pointsman_using_subcommand connections; and __fish_seen_subcommand_from close" -l cancel -d 'Cancel all such orders instead: connections whose turn has not come stay open'
complete -c pointsman -n "__fish_pointsman_using_subcommand connections; and __fish_seen_subcommand_from close" -s h -l help -d 'Print help'
complete -c pointsman -n "__fish_pointsman_using_subcommand connections; and __fish_seen_subcommand_from help" -f -a "show" -d 'Show a connection: its names, the state of both sockets, what holds it up, commands that show more'
complete -c pointsman -n "__fish_pointsman_using_subcommand connections; and __fish_seen_subcommand_from help" -f -a "kill" -d 'Close connections at once: both sides are reset'
complete -c pointsman -n "__fish_pointsman_using_subcommand connections; and __fish_seen_subcommand_from help" -f -a "close" -d 'Close all connections that pass a filter, one after the other'
complete -c pointsman -n "__fish_pointsman_using_subcommand connections; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c pointsman -n "__fish_pointsman_using_subcommand routes" -l listener -d 'Routes of this listener' -r
complete -c pointsman -n "__fish_pointsman_using_subcommand routes" -l unused -d 'Routes without a connection for at least this time, such as `7d` or `12h`' -r
complete -c pointsman -n "__fish_pointsman_using_subcommand routes" -l limit -d 'The most routes to list, from 1 to 10000; the default is 1000' -r
complete -c pointsman -n "__fish_pointsman_using_subcommand routes" -l admin -d 'The address of the admin listener, or `unix:/PATH`. The default is POINTSMAN_ADMIN, else unix:/run/pointsman/admin.sock if this socket exists, else 127.0.0.1:10190' -r
complete -c pointsman -n "__fish_pointsman_using_subcommand routes" -l token-file -d 'The file with the token of the admin listener: the file of admin.token_file' -r -F
complete -c pointsman -n "__fish_pointsman_using_subcommand routes" -l json -d 'Print the list as JSON'
complete -c pointsman -n "__fish_pointsman_using_subcommand routes" -s h -l help -d 'Print help'
complete -c pointsman -n "__fish_pointsman_using_subcommand fleet-check" -l token-file -d 'The file with the token of the admin listeners: the file of admin.token_file' -r -F
complete -c pointsman -n "__fish_pointsman_using_subcommand fleet-check" -l json -d 'Print the result as JSON'
complete -c pointsman -n "__fish_pointsman_using_subcommand fleet-check" -s h -l help -d 'Print help'
complete -c pointsman -n "__fish_pointsman_using_subcommand tproxy-rules" -s h -l help -d 'Print help'
complete -c pointsman -n "__fish_pointsman_using_subcommand fleet-rules" -l vip -d 'The virtual addresses that all nodes serve, such as `10.9.9.9,2001:db8::9`' -r
complete -c pointsman -n "__fish_pointsman_using_subcommand fleet-rules" -l uplink -d 'The interfaces at which packets of clients come in' -r
complete -c pointsman -n "__fish_pointsman_using_subcommand fleet-rules" -l peer -d 'The interface of the link between the nodes' -r
complete -c pointsman -n "__fish_pointsman_using_subcommand fleet-rules" -l node -d 'The number of this node, from 1 to 63' -r
complete -c pointsman -n "__fish_pointsman_using_subcommand fleet-rules" -l peers -d 'The numbers of the other nodes and their addresses on the link between the nodes, such as `1=10.9.2.11,3=10.9.2.13`; a node may have an address of each family' -r
complete -c pointsman -n "__fish_pointsman_using_subcommand fleet-rules" -l format -d 'The form of the text: `sh`, the nftables rules and the routing rules as a script for a shell; `bird`, the routes to the other nodes for the routing daemon bird' -r -f -a "sh\t'A script for a shell'
bird\t'A part of the configuration of bird'"
complete -c pointsman -n "__fish_pointsman_using_subcommand fleet-rules" -l remove -d 'Print the text that removes the rules; it needs no further argument'
complete -c pointsman -n "__fish_pointsman_using_subcommand fleet-rules" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c pointsman -n "__fish_pointsman_using_subcommand schema" -s h -l help -d 'Print help'
complete -c pointsman -n "__fish_pointsman_using_subcommand completions" -s h -l help -d 'Print help'
complete -c pointsman -n "__fish_pointsman_using_subcommand help; and not __fish_seen_subcommand_from run upgrade check health status top list drain maintenance ready weight split pause resume rebalance leave join reload log overrides config explain connections routes fleet-check tproxy-rules fleet-rules schema completions help" -f -a "run" -d 'Serve connections, with a configuration file or with --listen and --backend'
complete -c pointsman -n "__fish_pointsman_using_subcommand help; and not __fish_seen_subcommand_from run upgrade check health status top list drain maintenance ready weight split pause resume rebalance leave join reload log overrides config explain connections routes fleet-check tproxy-rules fleet-rules schema completions help" -f -a "upgrade" -d 'Move the sockets and the open connections of the running pointsman to this program'
complete -c pointsman -n "__fish_pointsman_using_subcommand help; and not __fish_seen_subcommand_from run upgrade check health status top list drain maintenance ready weight split pause resume rebalance leave join reload log overrides config explain connections routes fleet-check tproxy-rules fleet-rules schema completions help" -f -a "check" -d 'Check a configuration file and report all its faults; binds no address'
complete -c pointsman -n "__fish_pointsman_using_subcommand help; and not __fish_seen_subcommand_from run upgrade check health status top list drain maintenance ready weight split pause resume rebalance leave join reload log overrides config explain connections routes fleet-check tproxy-rules fleet-rules schema completions help" -f -a "health" -d 'Check that a running pointsman is alive; the exit code is then 0, else 1, and 2 for wrong arguments'
complete -c pointsman -n "__fish_pointsman_using_subcommand help; and not __fish_seen_subcommand_from run upgrade check health status top list drain maintenance ready weight split pause resume rebalance leave join reload log overrides config explain connections routes fleet-check tproxy-rules fleet-rules schema completions help" -f -a "status" -d 'Print the state of a running pointsman: problems, listeners, pools, backends, the last events'
complete -c pointsman -n "__fish_pointsman_using_subcommand help; and not __fish_seen_subcommand_from run upgrade check health status top list drain maintenance ready weight split pause resume rebalance leave join reload log overrides config explain connections routes fleet-check tproxy-rules fleet-rules schema completions help" -f -a "top" -d 'Show a running pointsman in the terminal: problems, charts, pools, connections; drain, pause and close by keys'
complete -c pointsman -n "__fish_pointsman_using_subcommand help; and not __fish_seen_subcommand_from run upgrade check health status top list drain maintenance ready weight split pause resume rebalance leave join reload log overrides config explain connections routes fleet-check tproxy-rules fleet-rules schema completions help" -f -a "list" -d 'Add entries to the lists of a running pointsman, remove them, or show the lists'
complete -c pointsman -n "__fish_pointsman_using_subcommand help; and not __fish_seen_subcommand_from run upgrade check health status top list drain maintenance ready weight split pause resume rebalance leave join reload log overrides config explain connections routes fleet-check tproxy-rules fleet-rules schema completions help" -f -a "drain" -d 'Send no new connections to a backend; open connections stay'
complete -c pointsman -n "__fish_pointsman_using_subcommand help; and not __fish_seen_subcommand_from run upgrade check health status top list drain maintenance ready weight split pause resume rebalance leave join reload log overrides config explain connections routes fleet-check tproxy-rules fleet-rules schema completions help" -f -a "maintenance" -d 'Send no new connections to a backend and pause its checks; open connections stay'
complete -c pointsman -n "__fish_pointsman_using_subcommand help; and not __fish_seen_subcommand_from run upgrade check health status top list drain maintenance ready weight split pause resume rebalance leave join reload log overrides config explain connections routes fleet-check tproxy-rules fleet-rules schema completions help" -f -a "ready" -d 'Put a backend in use again, after `drain` or `maintenance`'
complete -c pointsman -n "__fish_pointsman_using_subcommand help; and not __fish_seen_subcommand_from run upgrade check health status top list drain maintenance ready weight split pause resume rebalance leave join reload log overrides config explain connections routes fleet-check tproxy-rules fleet-rules schema completions help" -f -a "weight" -d 'Change the weight of a backend'
complete -c pointsman -n "__fish_pointsman_using_subcommand help; and not __fish_seen_subcommand_from run upgrade check health status top list drain maintenance ready weight split pause resume rebalance leave join reload log overrides config explain connections routes fleet-check tproxy-rules fleet-rules schema completions help" -f -a "split" -d 'Change the shares of pools in a route, such as for a canary'
complete -c pointsman -n "__fish_pointsman_using_subcommand help; and not __fish_seen_subcommand_from run upgrade check health status top list drain maintenance ready weight split pause resume rebalance leave join reload log overrides config explain connections routes fleet-check tproxy-rules fleet-rules schema completions help" -f -a "pause" -d 'Let new connections of a pool wait, such as for the failover of a database'
complete -c pointsman -n "__fish_pointsman_using_subcommand help; and not __fish_seen_subcommand_from run upgrade check health status top list drain maintenance ready weight split pause resume rebalance leave join reload log overrides config explain connections routes fleet-check tproxy-rules fleet-rules schema completions help" -f -a "resume" -d 'End the pause of a pool'
complete -c pointsman -n "__fish_pointsman_using_subcommand help; and not __fish_seen_subcommand_from run upgrade check health status top list drain maintenance ready weight split pause resume rebalance leave join reload log overrides config explain connections routes fleet-check tproxy-rules fleet-rules schema completions help" -f -a "rebalance" -d 'Close the connections of a pool that would go to another backend now, one after the other'
complete -c pointsman -n "__fish_pointsman_using_subcommand help; and not __fish_seen_subcommand_from run upgrade check health status top list drain maintenance ready weight split pause resume rebalance leave join reload log overrides config explain connections routes fleet-check tproxy-rules fleet-rules schema completions help" -f -a "leave" -d 'Answer 503 at /ready, so that balancers in front send new clients elsewhere; all else goes on'
complete -c pointsman -n "__fish_pointsman_using_subcommand help; and not __fish_seen_subcommand_from run upgrade check health status top list drain maintenance ready weight split pause resume rebalance leave join reload log overrides config explain connections routes fleet-check tproxy-rules fleet-rules schema completions help" -f -a "join" -d 'Answer at /ready as before `leave`'
complete -c pointsman -n "__fish_pointsman_using_subcommand help; and not __fish_seen_subcommand_from run upgrade check health status top list drain maintenance ready weight split pause resume rebalance leave join reload log overrides config explain connections routes fleet-check tproxy-rules fleet-rules schema completions help" -f -a "reload" -d 'Read the configuration file again, and print the changes'
complete -c pointsman -n "__fish_pointsman_using_subcommand help; and not __fish_seen_subcommand_from run upgrade check health status top list drain maintenance ready weight split pause resume rebalance leave join reload log overrides config explain connections routes fleet-check tproxy-rules fleet-rules schema completions help" -f -a "log" -d 'Change the level of the log'
complete -c pointsman -n "__fish_pointsman_using_subcommand help; and not __fish_seen_subcommand_from run upgrade check health status top list drain maintenance ready weight split pause resume rebalance leave join reload log overrides config explain connections routes fleet-check tproxy-rules fleet-rules schema completions help" -f -a "overrides" -d 'Print the changes that operators made at run time, as JSON'
complete -c pointsman -n "__fish_pointsman_using_subcommand help; and not __fish_seen_subcommand_from run upgrade check health status top list drain maintenance ready weight split pause resume rebalance leave join reload log overrides config explain connections routes fleet-check tproxy-rules fleet-rules schema completions help" -f -a "config" -d 'Print the keys that are in force in a running pointsman, with the origins of their values'
complete -c pointsman -n "__fish_pointsman_using_subcommand help; and not __fish_seen_subcommand_from run upgrade check health status top list drain maintenance ready weight split pause resume rebalance leave join reload log overrides config explain connections routes fleet-check tproxy-rules fleet-rules schema completions help" -f -a "explain" -d 'Show what happens to a connection and why: lists, route, backend; the exit code is 3 if it is refused'
complete -c pointsman -n "__fish_pointsman_using_subcommand help; and not __fish_seen_subcommand_from run upgrade check health status top list drain maintenance ready weight split pause resume rebalance leave join reload log overrides config explain connections routes fleet-check tproxy-rules fleet-rules schema completions help" -f -a "connections" -d 'List the open connections of a running pointsman, show one, or close some'
complete -c pointsman -n "__fish_pointsman_using_subcommand help; and not __fish_seen_subcommand_from run upgrade check health status top list drain maintenance ready weight split pause resume rebalance leave join reload log overrides config explain connections routes fleet-check tproxy-rules fleet-rules schema completions help" -f -a "routes" -d 'List the routes of a running pointsman with the time of their last use'
complete -c pointsman -n "__fish_pointsman_using_subcommand help; and not __fish_seen_subcommand_from run upgrade check health status top list drain maintenance ready weight split pause resume rebalance leave join reload log overrides config explain connections routes fleet-check tproxy-rules fleet-rules schema completions help" -f -a "fleet-check" -d 'Compare the nodes of a fleet, and print what differs; the exit code is 0 if they are equal, else 1'
complete -c pointsman -n "__fish_pointsman_using_subcommand help; and not __fish_seen_subcommand_from run upgrade check health status top list drain maintenance ready weight split pause resume rebalance leave join reload log overrides config explain connections routes fleet-check tproxy-rules fleet-rules schema completions help" -f -a "tproxy-rules" -d 'Print a shell script with the network rules that `source = "client"` needs'
complete -c pointsman -n "__fish_pointsman_using_subcommand help; and not __fish_seen_subcommand_from run upgrade check health status top list drain maintenance ready weight split pause resume rebalance leave join reload log overrides config explain connections routes fleet-check tproxy-rules fleet-rules schema completions help" -f -a "fleet-rules" -d 'Print the rules by which several nodes serve one address, so that a node that leaves breaks no connection'
complete -c pointsman -n "__fish_pointsman_using_subcommand help; and not __fish_seen_subcommand_from run upgrade check health status top list drain maintenance ready weight split pause resume rebalance leave join reload log overrides config explain connections routes fleet-check tproxy-rules fleet-rules schema completions help" -f -a "schema" -d 'Print the JSON Schema of the configuration file'
complete -c pointsman -n "__fish_pointsman_using_subcommand help; and not __fish_seen_subcommand_from run upgrade check health status top list drain maintenance ready weight split pause resume rebalance leave join reload log overrides config explain connections routes fleet-check tproxy-rules fleet-rules schema completions help" -f -a "completions" -d 'Print a script that completes the commands and options of pointsman in a shell'
complete -c pointsman -n "__fish_pointsman_using_subcommand help; and not __fish_seen_subcommand_from run upgrade check health status top list drain maintenance ready weight split pause resume rebalance leave join reload log overrides config explain connections routes fleet-check tproxy-rules fleet-rules schema completions help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c pointsman -n "__fish_pointsman_using_subcommand help; and __fish_seen_subcommand_from list" -f -a "add" -d 'Add a network or an address to a list; it stays until its time is over or the process ends'
complete -c pointsman -n "__fish_pointsman_using_subcommand help; and __fish_seen_subcommand_from list" -f -a "remove" -d 'Remove an added entry from a list; remove an entry of a file in the file itself'
complete -c pointsman -n "__fish_pointsman_using_subcommand help; and __fish_seen_subcommand_from list" -f -a "show" -d 'Show as JSON: all lists, one list with its added entries, or the reason why a list has an address'
complete -c pointsman -n "__fish_pointsman_using_subcommand help; and __fish_seen_subcommand_from connections" -f -a "show" -d 'Show a connection: its names, the state of both sockets, what holds it up, commands that show more'
complete -c pointsman -n "__fish_pointsman_using_subcommand help; and __fish_seen_subcommand_from connections" -f -a "kill" -d 'Close connections at once: both sides are reset'
complete -c pointsman -n "__fish_pointsman_using_subcommand help; and __fish_seen_subcommand_from connections" -f -a "close" -d 'Close all connections that pass a filter, one after the other'
