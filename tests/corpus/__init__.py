"""A corpus of odd data sets and odd associations, and what the adapter and other receivers do with them.

    make corpus                 run every case against the adapter and the installed receivers; show differences
    make corpus ARGS=--write    write the results that the tests compare, and the page of the documentation

All bytes are generated here.
"""
