"""Runs what docs/other-languages.md has for Python, and prints a line for each thing that came of it."""

import sys
from pathlib import Path

import grpc
from grpc_status import rpc_status
from keyward.v1 import audit_pb2, audit_pb2_grpc, encryption_pb2, encryption_pb2_grpc
from keyward_client import connect, explain, round_trip


def main(address, ca, cert, key):
    channel = connect(address, *(Path(file).read_bytes() for file in (ca, cert, key)))
    print("opened", round_trip(channel, b"hello").decode())

    encryption = encryption_pb2_grpc.EncryptionServiceStub(channel)
    try:
        encryption.Decrypt(encryption_pb2.DecryptRequest(parent="tenants/acme", ciphertext=b"none"))
    except grpc.RpcError as error:
        report("failure", error.code().value[0], rpc_status.from_call(error))

    names = ("tenants/acme/keys/orders", "tenants/acme/keys/none")
    batch = encryption.BatchEncrypt(encryption_pb2.BatchEncryptRequest(
        parent="tenants/acme",
        requests=[encryption_pb2.EncryptRequest(name=name, plaintext=b"hello") for name in names]))
    for result in batch.results:
        if result.HasField("error"):
            report("item", result.error.code, result.error)
        else:
            print("item", str(len(result.response.ciphertext) > 0).lower())

    audit = audit_pb2_grpc.AuditServiceStub(channel)
    page = audit.ListEntries(audit_pb2.ListEntriesRequest(parent="tenants/acme", page_size=1000))
    print("page", sum(len(entry.leaf) for entry in page.entries))

    try:
        entries = audit.ReadEntries(audit_pb2.ReadEntriesRequest(parent="tenants/acme"))
        next(entries)
        print("reading", flush=True)
        for _ in entries:
            pass
    except grpc.RpcError as error:
        report("ended", error.code().value[0], rpc_status.from_call(error))


def report(what, code, failure):
    info, again, _ = explain(code, failure)
    print(what, code, info.reason if info else "", info.domain if info else "", str(again).lower())


main(*sys.argv[1:])
