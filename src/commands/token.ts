/**
 * Runs the `token` commands, for an operator with the PIN file.
 *
 * - Each command has an agent of its own (`hsm/token-commands.ts`), by the keyring's rules.
 * - Each throws an Error in words for the operator.
 */
import { monotonicNow } from '../call.ts';
import { ConfigurationError, NEXT_TOKEN_SETTINGS, read } from '../config.ts';
import { tokenStatusMessage } from '../faces/contract/hsm-token-messages.ts';
import {
  checkToken,
  destroyTokenKeys,
  initializeToken,
  inspectToken,
  withRecordAgent,
} from '../hsm/token-commands.ts';
import type { TokenObject } from '../hsm/token-profile.ts';
import type { SealKeyId } from '../ids.ts';
import {
  type DestroyedKeys,
  type DestructionParts,
  destroyTokenKey,
  recordTokenKey,
  shredTokenKeys,
  unrecordedKey,
} from '../keyring/hsm-token/token-destruction.ts';
import { operatorSealer, sealTokenKeys } from '../keyring/hsm-token/token-key-vouching.ts';
import { migrateToken, previewMigration } from '../keyring/hsm-token/token-migration.ts';
import { tokenObjectsOf } from '../keyring/hsm-token/token-objects.ts';
import { objectionsTo, readTokenStatus } from '../keyring/hsm-token/token-status.ts';
import { tokenStatusText, tokensText } from '../keyring/hsm-token/token-status-text.ts';
import { sealTenants } from '../keyring/seals/first-tenant-seals.ts';
import { sealMaintenance } from '../keyring/seals/maintenance-seal.ts';
import { sealStates } from '../keyring/seals/seal-states.ts';
import { withOwnerConnection } from '../store/core/owner.ts';
import {
  readEnvironment,
  readEnvironmentAsOwner,
  recordToken,
  requireMode,
} from '../store/environment.ts';
import type { TokenKeySealer } from '../store/hsm-token/token-key-set.ts';
import { countMoved } from '../store/hsm-token/tokens.ts';
import { nextAgents, openingAgents } from './agents-opening.ts';
import {
  asOwner,
  OPERATOR,
  OWNER_TOKEN_SETTINGS,
  openStore,
  REPORT_SETTINGS,
  recordedToken,
  SEALED_RECORDS,
} from './opening.ts';

/** Every key version is counted. */
const COUNT_MS = 60_000;

/** Runs `init`. */
export async function initToken(): Promise<void> {
  const settings = read(OWNER_TOKEN_SETTINGS, process.env);
  const {
    MIGRATION_DATABASE_URL: url,
    KEYWARD_DATABASE_CA_FILE: caFilePath,
    KEYWARD_MODE: mode,
  } = settings;
  await withOwnerConnection(url, caFilePath, async (owner) => {
    const { environmentId, mode: recordedMode, tokenObjects } = await readEnvironmentAsOwner(owner);
    // Where none is recorded, this one will be.
    requireMode(recordedMode, mode, mode);
    const agents = openingAgents(settings);
    const recorded = tokenObjectsOf(tokenObjects);
    const made = await initializeToken({ environmentId, recorded }, agents);
    const { profile, objects } = made;
    const outcome = await withRecordAgent({ environmentId, profile, objects }, agents, (agent) =>
      recordToken(owner, mode, operatorSealer(agent, agent), {
        ...made,
        sealRest: async (sealKeyId) => {
          await sealTenants({ owner, agent, sealKeyId });
          await sealMaintenance(owner, agent, sealKeyId);
        },
      }),
    );
    say(`the token is ${outcome === 'recorded' ? 'initialised' : 'already initialised'}`);
    for (const { role, objectId } of made.objects) say(`  ${role} ${objectId}`);
  });
}

/** Runs `check`. */
export async function reportToken(): Promise<void> {
  const settings = read(REPORT_SETTINGS, process.env);
  const store = await openStore(settings, () => {});
  try {
    const recorded = recordedToken(await readEnvironment(store));
    const { findings, ...report } = await checkToken(
      { ...recorded, keyCacheSize: settings.KEYWARD_HSM_KEY_CACHE },
      openingAgents(settings),
    );
    say(`${report.token} (serial ${report.serialNumber}), ${report.module}`);
    for (const { role, objectId, attribute, state } of findings)
      say(`  ${role} ${objectId} ${attribute}: ${state}, waived`);
    say('every other required attribute of every object is enforced');
  } finally {
    await store.close();
  }
}

/**
 * Runs `status`. Throws, after it has printed everything, if a service would not start with this
 * token.
 */
export async function showToken({ json = false }: { readonly json?: boolean }): Promise<void> {
  const { status, tokens } = await lookAtToken();
  process.stdout.write(
    json
      ? `${JSON.stringify(tokenStatusMessage(status), null, 2)}\n`
      : tokens + tokenStatusText(status),
  );
  const objections = objectionsTo(status);
  if (objections.length > 0)
    throw new Error(['cannot serve with this token:', ...objections].join('\n'));
}

/** Runs `record`. */
export async function recordInDatabase(uuid: string): Promise<void> {
  const asConfigured = read(['KEYWARD_MODE', 'MIGRATION_DATABASE_URL'], process.env);
  const { settings, status } = await lookAtToken();
  await asOwner({ ...settings, ...asConfigured }, async (owner, environment) => {
    const { role, objectId } = unrecordedKey(status, uuid);
    const recorded = recordedToken(environment);
    // A token with a key that nobody knows is not opened.
    const objects = [...recorded.objects, { role, objectId, presence: 'possible' } as const];
    await withRecordAgent({ ...recorded, objects }, openingAgents(settings), (agent) =>
      recordTokenKey(
        { owner, caller: OPERATOR, sealer: operatorSealer(agent, agent) },
        { role, objectId },
      ),
    );
  });
  say(`recorded ${uuid}; the service never uses it`);
}

/** Runs `destroy-key`. */
export function destroyKey(uuid: string): Promise<void> {
  return destroyInToken((parts) => destroyTokenKey(parts, uuid));
}

/** Runs `shred`. */
export function shredTenant(tenant: string): Promise<void> {
  return destroyInToken((parts) => shredTokenKeys(parts, tenant));
}

/** Runs `seal-states`. */
export async function sealUnsealedStates({
  dryRun = false,
}: {
  readonly dryRun?: boolean;
}): Promise<void> {
  const settings = read(OWNER_TOKEN_SETTINGS, process.env);
  await asOwner(settings, async (owner, environment) => {
    const recorded = recordedToken(environment);
    const current = environment.tokenObjects.find(
      ({ role, state }) => role === 'seal' && state === 'CURRENT',
    );
    if (current === undefined)
      throw new Error('cannot seal the states: no seal key is recorded as current');
    const sealKeyId = current.objectId as unknown as SealKeyId;
    await withRecordAgent(recorded, openingAgents(settings), async (agent) => {
      await sealTokenKeys({ owner, agent, dryRun, say });
      const maintenance = await sealMaintenance(owner, agent, sealKeyId, dryRun);
      if (maintenance !== undefined)
        say(
          `the maintenance switch is not sealed: ${maintenance.paused ? 'paused' : 'not paused'}${dryRun ? '' : '; sealed it'}`,
        );
      await sealStates({ owner, caller: OPERATOR, sealKeyId, agent, dryRun, say });
    });
  });
}

/** Runs `migrate`. */
export async function moveToNextToken({
  dryRun = false,
  leaveBehind = false,
}: {
  readonly dryRun?: boolean;
  readonly leaveBehind?: boolean;
}): Promise<void> {
  const settings = read([...OWNER_TOKEN_SETTINGS, ...NEXT_TOKEN_SETTINGS], process.env);
  const next = nextAgents(settings);
  if (next === undefined)
    throw new ConfigurationError('cannot move key versions: KEYWARD_NEXT_HSM_* is not set');
  await asOwner(settings, (owner) =>
    (dryRun ? previewMigration : migrateToken)({
      owner,
      caller: OPERATOR,
      current: openingAgents(settings),
      next,
      leaveBehind,
      sealedRecords: SEALED_RECORDS,
      say,
    }),
  );
}

/** Returns the token as an agent of this command sees it, and the settings that found it. */
async function lookAtToken() {
  const settings = read(REPORT_SETTINGS, process.env);
  const store = await openStore(settings, () => {});
  try {
    const environment = await readEnvironment(store);
    const recorded = recordedToken(environment);
    const status = await readTokenStatus(store, (objects) =>
      inspectToken({ ...recorded, objects }, openingAgents(settings)),
    );
    const moved = await countMoved(store, { deadline: monotonicNow() + COUNT_MS });
    return { settings, status, tokens: tokensText(environment.tokens, moved) };
  } finally {
    await store.close();
  }
}

async function destroyInToken(
  work: (parts: DestructionParts) => Promise<DestroyedKeys>,
): Promise<void> {
  const settings = read(OWNER_TOKEN_SETTINGS, process.env);
  const agents = openingAgents(settings);
  await asOwner(settings, async (owner, environment) => {
    const { environmentId } = environment;
    const destroy = (objects: readonly TokenObject[]) =>
      destroyTokenKeys({ environmentId, objects }, agents);
    // As it is recorded then: what is being destroyed needn't be there any more.
    const withSealer = async <T>(seal: (sealer: TokenKeySealer) => Promise<T>) =>
      withRecordAgent(recordedToken(await readEnvironmentAsOwner(owner)), agents, (agent) =>
        seal(operatorSealer(agent, agent)),
      );
    const verify: DestructionParts['verify'] = (request) =>
      withRecordAgent(
        recordedToken(environment),
        agents,
        async (agent) => (await agent.verify(request)).verified[0] === 1,
      );
    const parts = { owner, destroy, verify, withSealer, caller: OPERATOR };
    const { objects, inToken } = await work(parts);
    for (const { role, objectId } of objects) say(`destroyed ${role} ${objectId}`);
    say(
      `${inToken} of ${objects.length} were in this token; copies of the token may still have them`,
    );
  });
}

function say(line: string): void {
  process.stdout.write(`${line}\n`);
}
