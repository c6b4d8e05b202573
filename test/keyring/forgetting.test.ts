/**
 * What a replica forgets of what it remembers: of a change, what it is about; everything, where it
 * cannot know what has changed meanwhile.
 */
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { AccessRig } from '../access/access-rig.ts';
import { type Scrape, scrape } from '../measures/scrape.ts';
import { type FaultyProxy, startProxy } from '../store/proxy.ts';
import { eventually, type Service } from '../support/kit.ts';

const ENCRYPT = 'EncryptionService/Encrypt';
const CACHES = ['tenants', 'policies', 'keys'] as const;
/** Longer than a text of metrics is kept. */
const TEXT_MS = 300;
/** So long a replica answers from memory while it hears of no changes. */
const FRESH_MS = 5_000;
const STALE_MS = FRESH_MS + 1_000;

let rig: AccessRig;
/** Where nothing is changed, so that it hears of changes by the feed alone; behind the proxy. */
let other: Service;
let proxy: FaultyProxy;

before(async () => {
  rig = await AccessRig.start();
  proxy = await startProxy(rig.environment.urls.service);
  other = await rig.addReplica({
    DATABASE_URL: proxy.through(rig.environment.urls.service),
    KEYWARD_METRICS_LISTEN: '127.0.0.1:0',
    KEYWARD_MAX_STALENESS_MS: `${FRESH_MS}`,
  });
});

after(async () => {
  await rig?.[Symbol.asyncDispose]();
  await proxy?.[Symbol.asyncDispose]();
});

async function encrypt(tenant: string): Promise<string> {
  const request = { name: `tenants/${tenant}/keys/k`, plaintext: Buffer.from('p') };
  return (await rig.ask(rig.tester, ENCRYPT, request, other)).reason;
}

const answers = (tenant: string, reason: string) =>
  eventually(async () => assert.equal(await encrypt(tenant), reason));

const lookups = (now: Scrape, result: 'hit' | 'miss') =>
  CACHES.map((cache) => now.sum('keyward_cache_lookups_total', { cache, result }));

/** How often each cache was asked in vain while `work` was done, which asks for a key. */
async function missed(work: () => Promise<unknown>): Promise<number[]> {
  await delay(TEXT_MS);
  const earlier = await scrape(other.operatorsPort);
  await work();
  await delay(TEXT_MS);
  const later = await scrape(other.operatorsPort);
  const [before, now] = [earlier, later].map((each) => lookups(each, 'miss'));
  const asked = (each: Scrape) => [...lookups(each, 'hit'), ...lookups(each, 'miss')];
  assert.notDeepEqual(asked(earlier), asked(later), 'the text is from before the work');
  return CACHES.map((_, index) => (now?.[index] ?? 0) - (before?.[index] ?? 0));
}

/** Changes the tenant beta; by the end the replica has heard of that, and of all before it. */
async function disableBeta(): Promise<void> {
  await rig.done('AdminService/DisableTenant', { name: 'tenants/beta' });
  await answers('beta', 'TENANT_DISABLED');
}

/** Has all of acme in memory, of which nothing is still to be heard. */
async function settle(): Promise<void> {
  await disableBeta();
  await answers('acme', 'OK');
}

test('a tenant that changes leaves those of other tenants in memory, with their keys and policies', async () => {
  await settle();
  await rig.done('AdminService/EnableTenant', { name: 'tenants/beta' });
  await answers('beta', 'OK');
  await rig.bind('beta', 'spiffe://keyward.test/x', 'encrypter');
  await rig.done('ApprovalService/UpdateApprovalRules', {
    approvalRules: { name: 'tenants/beta/approvalRules', stepUp: [] },
  });
  await rig.done('KeyService/DisableKey', { name: 'tenants/beta/keys/k' });
  await rig.done('AdminService/CreateTenant', { tenantId: 'gamma' });
  await answers('beta', 'KEY_NOT_ENABLED');
  await disableBeta();
  assert.deepEqual(await missed(() => answers('acme', 'OK')), [0, 0, 0]);
});

test('a replica that had no database for longer than it may answer without forgets everything', async () => {
  await settle();
  const misses = await missed(async () => {
    // One that hangs would be a look at the changes that was begun later than the last one before.
    proxy.accept('refuse');
    proxy.cutAll();
    await delay(STALE_MS);
    assert.notEqual(await encrypt('acme'), 'OK');
    proxy.accept('pass');
    await answers('acme', 'OK');
  });
  for (const [index, cache] of CACHES.entries())
    assert.ok((misses[index] ?? 0) > 0, `${cache} are as before`);
});

test('a replica that stood still for so long does, too', async () => {
  await settle();
  const misses = await missed(async () => {
    process.kill(other.pid, 'SIGSTOP');
    await delay(STALE_MS).finally(() => process.kill(other.pid, 'SIGCONT'));
    await answers('acme', 'OK');
  });
  for (const [index, cache] of CACHES.entries())
    assert.ok((misses[index] ?? 0) > 0, `${cache} are as before`);
});
