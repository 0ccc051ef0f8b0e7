"""The path of an instance through the adapter, in seven steps. To follow it, read the modules in this order:

1. `association`: `judge` accepts or rejects the association of the sender.
2. `store`: `commit.Store` writes the data set to the storage backend while it arrives (`incoming`), and makes it
   durable. Then the C-STORE is answered. `limits` and `free_space` refuse instances if there is too little free space.
   The package `enter` enters all rows in the ledger. Normally `follower` in the host enters a row after the answer; if
   the storage backend keeps no recovery records, the receiver enters it before the answer. `entry.RowEntry` decides
   about duplicates (`rows`), and `recovery` enters the rows that were lost in a power loss.
3. `notify`: `Notify` detects new rows, to wake the lanes of their AE titles and to notify observers.
4. `process`: `lane.Lane` delivers the instances of an AE title to its job processor, one turn after another.
   `turn.Turn` records the jobs that the processor submits and the instances that it releases, and commits both in one
   transaction. `reactions` defines what happens after a turn that fails; `quarantine` keeps instances that cannot be
   handled.
5. `submit`: `queue.JobQueue` chooses the next job of a submitter. `submission` runs its next step, and records the
   result; `steps` are the calls to the platform: create the job, add metadata, upload the files (through
   `verified_reader`), start. `status_watch` polls the platform for the state of started jobs.
6. `results`: `collect` stores the outputs of a job that has succeeded. `check` decides which of them may be delivered,
   and `deliver` creates a delivery job for each destination: submitters deliver, as in step 5.
7. `reclaim`: `reclaim.Reclaim` deletes the stored objects of released instances that no unfinished job needs. `quota`
   and `watermark` limit the space in use, and `retention` deletes old history.

The steps do not import each other: they communicate through the ledger. `receiver` connects the first two steps, `host`
connects the other steps.
"""
