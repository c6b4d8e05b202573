/**
 * Every method of the contract over gRPC and as JSON: the same answer, or the same error down to
 * its details.
 */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { after, before, describe, test } from 'node:test';
import { AccessRig, type Caller, RPCS, type Rpc } from '../../access/access-rig.ts';
import { eventually } from '../../support/kit.ts';
import { wellFormed } from '../../support/well-formed.ts';

let rig: AccessRig;
let nobody: Caller;

before(async () => {
  rig = await AccessRig.start();
  nobody = rig.certified('spiffe://keyward.test/nobody');
});

after(() => rig?.[Symbol.asyncDispose]());

/** Answers that have something new in them each time. */
const DRAWN =
  /^(EncryptionService|DataKeyService)\/|\/(RotateSealKey|CreateCanary|GetServiceStatus)$/;

/** Answers that grow by what is asked, so that now and then the second has more than the first. */
const GROWING = /^AuditService\//;

/** The request with an id, by which the second of the two calls has the answer of the first. */
function repeatable({ definition }: Rpc, request: object): object {
  const { field } = (
    definition as unknown as {
      readonly requestType: { readonly type: { readonly field: readonly { name: string }[] } };
    }
  ).requestType.type;
  const takesId = field.some(({ name }) => name === 'requestId');
  return takesId ? { ...request, requestId: randomUUID() } : request;
}

/** Has a caller make the same call over both, and compares all that comes back. */
async function compare(caller: Caller, rpc: Rpc, request: object): Promise<void> {
  const grpc = await rig.askByGrpc(caller, rpc.name, request);
  const http = await rig.askByHttp(caller, rpc.name, request);
  if (grpc.reason !== 'OK') assert.deepEqual(http, grpc);
  else if (DRAWN.test(rpc.name)) {
    assert.equal(http.reason, 'OK');
    assert.deepEqual(Object.keys(http.answer), Object.keys(grpc.answer));
  } else assert.deepEqual([http.reason, http.answer], [grpc.reason, grpc.answer]);
}

describe('what JSON over HTTP answers is what gRPC answers', () => {
  for (const rpc of RPCS) {
    test(rpc.name, async () => {
      const request = await wellFormed(rig, nobody, rpc, { tenant: 'acme' });
      const compareAll = async () => {
        await compare(rig.tester, rpc, {});
        await compare(nobody, rpc, request);
        await compare({}, rpc, request);
        await compare(rig.tokened('somebody', ['acme']), rpc, request);
        await compare(rig.tester, rpc, repeatable(rpc, request));
      };
      await (GROWING.test(rpc.name) ? eventually(compareAll) : compareAll());
    });
  }
});
