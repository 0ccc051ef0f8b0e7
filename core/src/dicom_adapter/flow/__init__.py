"""The way of an instance, step by step: association, store, notify, process, submit, reclaim; at last, retention.

The steps do not import each other. `receiver` connects the first two, `host` the others.
"""
