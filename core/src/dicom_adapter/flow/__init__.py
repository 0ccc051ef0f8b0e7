"""The path of an instance through the service. Each step is a module or package of its own:

1. `association`: accept or reject the association of the sender.
2. `store`: write the instance to the storage backend and record it in the ledger.
3. `notify`: detect new instances, wake their lanes and notify observers.
4. `process`: deliver the instances of each AE title to its job processor.
5. `submit`: submit jobs to platforms, and report the state of jobs there.
6. `reclaim`: delete stored objects that are not needed any longer; delete old history (`retention`).

The steps do not import each other. `receiver` connects the first two, `host` the others.
"""
