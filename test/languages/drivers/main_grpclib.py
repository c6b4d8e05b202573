"""Runs what docs/other-languages.md has for grpclib, and prints a line for each thing that came of it."""

import asyncio
import sys

from grpclib import GRPCError
from keyward.v1 import audit_grpc, audit_pb2, encryption_grpc, encryption_pb2
from keyward_client import connect, error_of, explain, round_trip


async def main(address, ca, cert, key):
    host, port = address.split(":")
    channel = connect(host, int(port), ca, cert, key)
    print("opened", (await round_trip(channel, b"hello")).decode())

    encryption = encryption_grpc.EncryptionServiceStub(channel)
    try:
        await encryption.Decrypt(encryption_pb2.DecryptRequest(parent="tenants/acme", ciphertext=b"none"))
    except GRPCError as error:
        report("failure", error)

    names = ("tenants/acme/keys/orders", "tenants/acme/keys/none")
    batch = await encryption.BatchEncrypt(encryption_pb2.BatchEncryptRequest(
        parent="tenants/acme",
        requests=[encryption_pb2.EncryptRequest(name=name, plaintext=b"hello") for name in names]))
    for result in batch.results:
        if result.HasField("error"):
            report("item", error_of(result.error))
        else:
            print("item", str(len(result.response.ciphertext) > 0).lower())

    audit = audit_grpc.AuditServiceStub(channel)
    page = await audit.ListEntries(audit_pb2.ListEntriesRequest(parent="tenants/acme", page_size=1000))
    print("page", sum(len(entry.leaf) for entry in page.entries))

    try:
        async with audit.ReadEntries.open() as stream:
            await stream.send_message(audit_pb2.ReadEntriesRequest(parent="tenants/acme"), end=True)
            await stream.recv_message()
            print("reading", flush=True)
            async for _ in stream:
                pass
    except Exception as error:
        report("ended", error)
    channel.close()


def report(what, error):
    info, again, _ = explain(error)
    code = error.status.value if isinstance(error, GRPCError) else type(error).__name__
    print(what, code, info.reason if info else "", info.domain if info else "", str(again).lower())


asyncio.run(main(*sys.argv[1:]))
