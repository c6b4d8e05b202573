/**
 * The client's token: what is sent, when another is asked for, and that it shows nowhere.
 */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { inspect } from 'node:util';
import { status } from '@grpc/grpc-js';
import { type ConnectOptions, connect, KeywardError, type Token } from '../../client/src/index.ts';
import { type Handler, refusal, startFakeService, wireJob, wireKey } from './fake-service.ts';

const KEY = { name: 'tenants/acme/keys/orders' };
const JOB = { name: 'tenants/acme/rewrapJobs/1' };

/** A token that expires in so many seconds. */
const jwt = (secondsLeft: number, id = 'x') =>
  ['{}', JSON.stringify({ exp: Date.now() / 1000 + secondsLeft, id }), 'signature']
    .map((part) => Buffer.from(part).toString('base64url'))
    .join('.');

const sentBy = (call: Parameters<Handler>[1]) => call.metadata.get('authorization');
const refused = () => refusal({ code: status.UNAUTHENTICATED, reason: 'CREDENTIALS_INVALID' });

/**
 * A fake that notes what it was sent, and refuses where `isGood` says so; and a client with that
 * token.
 */
async function startWith(token: Token, isGood: (token: string) => boolean = () => true) {
  const sent: string[] = [];
  const note = (call: Parameters<Handler>[1]) => {
    const [header = ''] = sentBy(call);
    const given = String(header).replace(/^Bearer /, '');
    sent.push(given);
    if (!isGood(given)) throw refused();
  };
  const service = await startFakeService({
    GetKey: (_, call) => {
      note(call);
      return wireKey(KEY.name);
    },
    WatchRewrapJob: async function* (_, call) {
      note(call);
      yield wireJob(JOB.name);
    },
  });
  const keyward = service.connect({ token, retries: 0 });
  return {
    service,
    keyward,
    sent,
    async [Symbol.asyncDispose]() {
      keyward.close();
      await service[Symbol.asyncDispose]();
    },
  };
}

async function failureOf(promise: Promise<unknown>): Promise<KeywardError> {
  const error = await promise.then(
    () => assert.fail('the call succeeded'),
    (thrown: unknown) => thrown,
  );
  assert.ok(error instanceof KeywardError, String(error));
  return error;
}

describe('a token', () => {
  it('is sent with every call, as a Bearer token and once', async () => {
    const token = jwt(600);
    await using fake = await startFakeService({
      GetKey: (_, call) => {
        assert.deepEqual(sentBy(call), [`Bearer ${token}`]);
        return wireKey(KEY.name);
      },
    });
    using keyward = fake.connect({ token });
    await keyward.getKey(KEY);
    await keyward.getKey(KEY);
    assert.equal(fake.calls.get('GetKey'), 2);
  });

  it('takes the place of a certificate where the service wants none', async () => {
    await using fake = await startFakeService(
      { GetKey: () => wireKey(KEY.name) },
      { wantsCertificate: false },
    );
    using keyward = connect({ address: fake.address, ca: fake.caPem, token: jwt(600) });
    await keyward.getKey(KEY);
  });

  it('that is a string is sent until its end, refused or not', async () => {
    const token = jwt(-5);
    await using fake = await startWith(token, () => false);
    const error = await failureOf(fake.keyward.getKey(KEY));
    assert.equal(error.reason, 'CREDENTIALS_INVALID');
    assert.deepEqual(fake.sent, [token]);
    assert.ok(!inspect(error, { depth: 10 }).includes(token));
  });

  it('has to be one, and goes with a whole certificate or none', () => {
    const base = { address: 'localhost:1', ca: 'x' };
    for (const token of ['', 'a b', 'a\r\nb', 'Bearer x', 5, null]) {
      assert.throws(
        () => connect({ ...base, token } as unknown as ConnectOptions),
        /^TypeError: token must be/,
      );
    }
    assert.throws(
      () => connect({ ...base, token: 'x', cert: 'x' } as unknown as ConnectOptions),
      /key or keyFile/,
    );
    assert.throws(
      () => connect(base as unknown as ConnectOptions),
      /cert or certFile must be given/,
    );
  });
});

describe('a function that gives tokens', () => {
  it('is called once for any number of calls', async () => {
    let asked = 0;
    await using fake = await startWith(async () => {
      asked += 1;
      return jwt(600);
    });
    await Promise.all(Array.from({ length: 20 }, () => fake.keyward.getKey(KEY)));
    await fake.keyward.getKey(KEY);
    assert.equal(asked, 1);
    assert.equal(fake.sent.length, 21);
  });

  it('is called again shortly before its token expires', async () => {
    let asked = 0;
    await using fake = await startWith(() => {
      asked += 1;
      return jwt(asked === 1 ? 20 : 600, String(asked));
    });
    for (let i = 0; i < 3; i += 1) await fake.keyward.getKey(KEY);
    assert.equal(asked, 2);
    assert.equal(new Set(fake.sent).size, 2);
  });

  it('is called again once when its token is refused', async () => {
    let asked = 0;
    const give = () => {
      asked += 1;
      return `token-${asked}`;
    };
    await using fake = await startWith(give, (token) => token === 'token-2');
    await fake.keyward.getKey(KEY);
    assert.deepEqual(fake.sent, ['token-1', 'token-2']);
    asked = 10;
    await using never = await startWith(give, () => false);
    assert.equal((await failureOf(never.keyward.getKey(KEY))).reason, 'CREDENTIALS_INVALID');
    assert.deepEqual(never.sent, ['token-11', 'token-12']);
  });

  it('is called again when its token is refused, and the same one is not sent again', async () => {
    let asked = 0;
    const give = () => {
      asked += 1;
      return 'of-a-file';
    };
    await using fake = await startWith(give, () => false);
    const error = await failureOf(fake.keyward.getKey(KEY));
    assert.deepEqual([error.reason, fake.sent, asked], ['CREDENTIALS_INVALID', ['of-a-file'], 2]);
  });

  it('is called again for a stream whose token is refused', async () => {
    let asked = 0;
    await using fake = await startWith(
      () => {
        asked += 1;
        return `token-${asked}`;
      },
      (token) => token === 'token-2',
    );
    const jobs = [];
    for await (const job of fake.keyward.watchRewrapJob(JOB)) jobs.push(job);
    assert.equal(jobs.length, 1);
    assert.deepEqual(fake.sent, ['token-1', 'token-2']);
  });

  it('that fails fails the call, says why, and is asked anew by the next', async () => {
    let asked = 0;
    await using fake = await startWith(async () => {
      asked += 1;
      if (asked === 1) throw new Error('the issuer is away');
      return asked === 2 ? 'no token\n' : 'good';
    });
    const away = await failureOf(fake.keyward.getKey(KEY));
    assert.equal(away.code, 'UNAUTHENTICATED');
    assert.match(String(away.cause), /the issuer is away/);
    const wrong = await failureOf(fake.keyward.getKey(KEY));
    assert.match(String(wrong.cause), /token must be/);
    await fake.keyward.getKey(KEY);
    assert.deepEqual(fake.sent, ['good']);
  });

  it('that never answers holds no call beyond its deadline, nor one that is cancelled', async () => {
    await using fake = await startWith(() => new Promise(() => {}));
    const late = await failureOf(fake.keyward.getKey(KEY, { timeoutMs: 50 }));
    assert.equal(late.code, 'DEADLINE_EXCEEDED');
    const controller = new AbortController();
    const cancelled = failureOf(fake.keyward.getKey(KEY, { signal: controller.signal }));
    setTimeout(() => controller.abort('enough'), 10);
    assert.equal((await cancelled).code, 'CANCELLED');
    assert.equal((await cancelled).cause, 'enough');
    assert.deepEqual(fake.sent, []);
  });
});
