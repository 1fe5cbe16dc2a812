"""Alarms of a run: what each means is judged by a small class that sees the run's events.

    finding.py   what a judge finds, and how events are read
    loss.py      not_finite, spike, plateau
    speed.py     slow, stall
    machine.py   hot_gpu, throttled_gpu, disk_low, dead_worker
    place.py     where the training thread is now: a long piece of work is no stall
    watch.py     raises and clears them: events, lines in the log, messages to a webhook

Thresholds, with their reasons, are in training/alarm_settings.py.
"""
