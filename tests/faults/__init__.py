"""The fault harness: a real adapter, real senders, a faulty platform and real destinations, and a count at the end.

    make faults MINUTES=10 SEED=1

    senders    DICOM senders, each in a separate process, which record every C-STORE and its response (`records`)
    composer   a user of the cache: composes jobs of received studies, repeats, deletes; recorded, too (`orders`)
    breaking   a connection that is reset in the middle of a PDU, or before a response arrives
    adapter    the service under test, and the ways to kill it
    clock      the system clock of the service, which is put forward and back
    mount      the disk with the data, which is unmounted and mounted
    log_reader the reader of the service's log, which stops for a while or for good
    silence    many connections that send nothing
    surroundings   the choice of the last four faults: clock, mount, log_reader, silence
    destination   a product that receives results, DCMTK's storescp or Orthanc (C-STORE, DICOMweb), and its faults
    products   how these products are started, and what they have
    link, disk the network and the disk of a destination
    platform   the platform emulator, with injected faults, which is killed and restarted
    commands   the command that the jobs of one AE title run, and the folder for its results
    kept       the content of the cache before it is stopped
    evidence   the state of each side after the run
    outcomes   the notes of the commands, and the folders that were delivered
    count      compares them: no acknowledged instance may be lost, no job may be started twice; `count_cache` has the
               rules for the cache, `count_results` those for results
    report     the figures of a run
    campaign   one whole run

**Reproducibility.** A seed decides every choice: the studies of each sender with all UIDs, sizes and bytes, their AE
titles, associations and pauses, and where a connection breaks; the sequence of the composer's requests; which process
is killed after which pause; which faults the platform has in each run, and how long each run is; which clock steps,
lost mounts, stopped log readers and silent connections there are; the sequence of each destination's faults. It does
not decide how processes are scheduled, or the UIDs of results. Therefore the instance that a kill or a fault
interrupts, the number of studies, and the requests that are repeated differ between runs. To reproduce a failure, run
its seed for longer or several times.
"""
