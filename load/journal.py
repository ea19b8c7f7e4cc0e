"""The client's journal: what a load process sent, written before it was sent, and what was answered.

One file for each load process, one JSON object a line:

    {"n": 7, "op": "create", "kind": "users.create", "id": "0193…", "at": 1790000000000000, "in": {…}}   before it is sent
    {"n": 7, "us": 2345, "ok": {…}}        the reply, or
    {"n": 7, "us": 2345, "error": "unavailable"}   the code of the error

`n` counts in this file, `at` is the intended start in microseconds since 1970, `us` the time from it to the reply. Only
what may have an effect is written: commands, and requests for ids (`"id": null`). The file holds made-up people or those of the
scenario's file, so it is private (0600) and lies in the run's own folder.

Promise: a request is in the file before its first byte is sent; a line that a kill has cut short is the last one.
"""
