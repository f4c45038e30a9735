# Units of the service -> units of its instances, pexservice@NAME.
s|^Description=.*|& (%i)|
s|pexservice\.socket|pexservice@%i.socket|g
s|/etc/pexservice/pexservice\.toml|/etc/pexservice/%i.toml|g
s|/var/lib/pexservice$|/var/lib/pexservice@%i|
s|/var/lib/pexservice |/var/lib/pexservice@%i |
s|^StateDirectory=pexservice$|StateDirectory=pexservice@%i|
s|^SyslogIdentifier=pexservice.*|&@%i|
s|/var/backups/pexservice$|/var/backups/pexservice/%i|
s|pexservice_backup\.prom|pexservice_backup@%i.prom|
s|^ListenStream=.*|ListenStream=/run/pexservice/%i.sock|
s|^SocketUser=.*|&\nSocketMode=0660|
s| \$PEXSERVICE_OPTIONS||
/PEXSERVICE_OPTIONS=\|EnvironmentFile=\|^# Options from before/d
