"""The fault harness: a real adapter under real senders and a faulty platform, killed again and again, then counted.

    make faults MINUTES=10 SEED=1

    senders    DICOM senders, each in a process of its own, which write down every C-STORE and its answer (`records`)
    composer   a user of the cache: composes jobs of what was sent there, repeats, deletes; writes it down (`orders`)
    breaking   a connection that is reset in the middle of a PDU, or before an answer arrives
    adapter    the service under test, and the ways to kill it
    platform   the platform emulator, which fails on demand and is killed and started again
    shelf      what the cache says that it keeps, before it is stopped
    evidence   what each side has in its files when all is over
    count      compares them: nothing acknowledged may be lost, nothing may be started twice; `count_cache` has what
               concerns the cache alone
    report     what a run was like
    campaign   one whole run

**What a seed repeats.** It decides every choice: the studies of each sender with all UIDs, sizes and bytes, to which AE
title they go, in which associations and with which pauses, where a connection breaks; what the composer does in turn;
whom the killer kills after which pause; which faults the platform has in each of its lives, and how long these are. It
does not decide when processes run: so which instance is on its way when a kill or a fault strikes, how many studies fit
into the time, and what is sent again because its answer never came, differ from run to run. A failure is found again by
running a seed for longer or several times, not by its first try.
"""
