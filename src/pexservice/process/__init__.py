"""
The service as a Unix process: file descriptors, signals, exit statuses, log lines.

Its modules use these words for what one process tells another::

    message      lines of systemd's notify protocol, from a worker to the supervisor, or
                 from the supervisor to systemd: sd_notify.py
    heartbeat    a message with the line WATCHDOG=1
    status text  the text of the line STATUS= in a message; systemctl status shows it
    exit status  the number with which a process ends: exit_status.py
    reason       why a process ends, in one line
    scoreboard   memory that the supervisor shares with its workers: scoreboard.py
    report       the record in the scoreboard with the supervisor's counts and the states
                 of its workers: supervisor_report.py
"""
