"""What a host says about its GPUs, its container engine and its container toolkit.

Every module here turns text and file trees into plain data, so that each failure of a real host can be replayed
from a fixture. Only the standard library is used: the code runs on the hosts, on Python 3.9 and newer.
"""
