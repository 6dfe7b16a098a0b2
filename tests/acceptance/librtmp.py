"""Publishes an FLV file in real time with librtmp: librtmp.py FILE URL"""

import ctypes
import sys
import time

HEADER = 13  # FLV header and the first back pointer


def tags(data):
    """Byte ranges and timestamps of the tags, back pointers included."""
    at = HEADER
    while at + 11 <= len(data):
        size = int.from_bytes(data[at + 1 : at + 4], "big")
        timestamp = data[at + 7] << 24 | int.from_bytes(data[at + 4 : at + 7], "big")
        yield data[at : at + 11 + size + 4], timestamp
        at += 11 + size + 4


def main():
    file, url = sys.argv[1:]
    try:
        library = ctypes.CDLL("librtmp.so.1")
    except OSError:
        sys.exit("librtmp.so.1 is missing: run `make tools`")
    library.RTMP_Alloc.restype = ctypes.c_void_p
    session = ctypes.c_void_p(library.RTMP_Alloc())
    library.RTMP_Init(session)
    address = ctypes.create_string_buffer(url.encode() + b" live=1")
    if not library.RTMP_SetupURL(session, address):
        sys.exit("the URL is not understood")
    library.RTMP_EnableWrite(session)
    if not library.RTMP_Connect(session, None) or not library.RTMP_ConnectStream(session, 0):
        sys.exit("not connected")
    with open(file, "rb") as source:
        data = source.read()
    begun = time.monotonic()
    for tag, timestamp in tags(data):
        time.sleep(max(0, timestamp / 1000 - (time.monotonic() - begun)))
        if library.RTMP_Write(session, tag, len(tag)) <= 0:
            sys.exit("the server closed the connection")
    library.RTMP_Close(session)


main()
