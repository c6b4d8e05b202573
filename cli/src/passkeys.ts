/**
 * Adds `keyward passkeys …`: what people decide on pending operations with.
 *
 * - A passkey is made in the person's browser; no private key ever comes here.
 */
import type { Command } from 'commander';
import type { KeywardClient, Passkey } from 'keyward-client';
import { UsageError } from './failures.ts';
import { lastPart, oneTenant, passkeyName } from './names.ts';
import {
  type ChangeOptions,
  changeOf,
  fromOne,
  limitOption,
  withRequestId,
  wordsOption,
} from './options.ts';
import type { Columns } from './output/output.ts';
import { whenOf } from './output/resources.ts';
import { withClient } from './session.ts';
import { type Answer, bytesIn, signOff, tellOnError } from './sign-off.ts';

const PASSKEY: Columns<Passkey> = {
  NAME: ({ name }) => name,
  PRINCIPAL: ({ principal }) => principal,
  'DISPLAY NAME': ({ displayName }) => displayName,
  ALGORITHM: ({ algorithm }) => algorithm,
  'DEVICE BOUND': ({ deviceBound }) => (deviceBound ? 'yes' : 'no'),
  ATTESTATION: ({ attestation }) => attestation,
  CREATED: ({ createTime }) => createTime.toISOString(),
  'LAST USED': ({ lastUseTime }) => whenOf(lastUseTime),
};

/** Adds `passkeys`. */
export function addPasskeys(program: Command): void {
  const passkeys = program
    .command('passkeys')
    .description('passkeys, by which people approve and reject; docs/people.md');
  addRegister(passkeys);
  addRule(passkeys);
  passkeys
    .command('list')
    .addOption(limitOption())
    .description("list your passkeys, or others'")
    .option('--principal <name>', "another caller's, as whoami shows it")
    .option('--all', "everyone's")
    .action((_options, command: Command) =>
      withClient<{ readonly principal?: string; readonly all?: boolean }>(
        command,
        async (keyward, { output, principal = '', all }) => {
          const whose = all === true ? '-' : principal;
          await output.all(PASSKEY, keyward.passkeys({ principal: whose }), 'passkeys');
        },
      ),
    );
  withRequestId(passkeys.command('remove <passkey>'))
    .description('remove a passkey: it decides on nothing more, and cannot be registered again')
    .action((named: string, _options, command: Command) =>
      withClient<ChangeOptions>(command, async (keyward, { output, ...options }) => {
        const name = passkeyName(named);
        await keyward.deletePasskey({ name, ...changeOf(options) });
        await output.done(`Removed ${name}.`);
      }),
    );
}

interface RuleOptions {
  readonly approvals: number;
  readonly approver: readonly string[];
}

function addRule(passkeys: Command): void {
  passkeys
    .command('rule')
    .description('print a rule for the HSM agents, from the passkeys that are registered')
    .option('--approvals <number>', 'how many people must have approved', fromOne, 2)
    .addOption(
      wordsOption('--approver <name>', 'whose approval counts, as whoami shows it; repeatable'),
    )
    .addHelpText(
      'after',
      '\nWithout --approver everyone counts who has a passkey. Have each person look at their own' +
        '\npublic keys in it before you place it where the agents read it (KEYWARD_AGENT_RULE).' +
        '\n\n  keyward passkeys rule --approver jwt:corp/bob --approver jwt:corp/eve > rule.json',
    )
    .action((_options, command: Command) =>
      withClient<RuleOptions>(command, async (keyward, { output, ...options }) => {
        const all: Passkey[] = [];
        for await (const passkey of keyward.passkeys({ principal: '-' })) all.push(passkey);
        await output.data(ruleOf(all, options));
      }),
    );
}

/** Returns the rule of docs/people.md. Throws UsageError for one that agents would refuse. */
function ruleOf(all: readonly Passkey[], { approvals, approver }: RuleOptions): object {
  const trusted = all.filter(
    ({ principal }) => approver.length === 0 || approver.includes(principal),
  );
  const people = Map.groupBy(trusted, ({ principal }) => principal);
  const absent = approver.find((name) => !people.has(name));
  if (absent !== undefined)
    throw new UsageError(`cannot write the rule: ${absent} has no passkey; have them register one`);
  if (people.size < approvals || people.size === 0)
    throw new UsageError(
      `cannot write the rule: it wants ${approvals} people to approve, and ${people.size} have a ` +
        'passkey; have more register one',
    );
  const [relyingPartyId, ...others] = new Set(trusted.map((each) => each.relyingPartyId));
  if (others.length > 0)
    throw new UsageError('cannot write the rule: the passkeys are of several relying parties');
  return {
    relyingPartyId,
    approvers: [...people].map(([name, own]) => ({ name, passkeys: own.map(trustedPasskey) })),
    approvals: {
      policies: approvals,
      approvalRules: approvals,
      passkeys: approvals,
      tokenKeys: approvals,
      removals: 0,
    },
  };
}

function trustedPasskey({ name, publicKey, algorithm, deviceBound }: Passkey) {
  const credentialId = lastPart(name);
  const key = Buffer.from(publicKey).toString('base64url');
  return { credentialId, publicKey: key, algorithm, deviceBound };
}

interface RegisterOptions extends ChangeOptions {
  readonly displayName: string;
  readonly browser: boolean;
}

function addRegister(passkeys: Command): void {
  withRequestId(passkeys.command('register [tenant]'))
    .description('make a passkey of yours in your browser, and register it')
    .option('--display-name <text>', 'what you call it', '')
    .option('--no-browser', 'only print the URL, to be opened on this machine')
    .addHelpText(
      'after',
      '\nName a tenant in which you have the permission passkeys.create; the passkey is yours in ' +
        'all.\nIf you have a passkey, the browser asks for it as well.' +
        '\n\n  keyward passkeys register acme --display-name "blue security key"',
    )
    .action((whose: string | undefined, _options, command: Command) =>
      withClient<RegisterOptions>(
        command,
        async (keyward, { output, tenant, displayName, browser, ...options }) => {
          const question =
            'cannot register: no tenant is named; write keyward passkeys register acme';
          const parent = oneTenant(whose, tenant, question);
          const answer = await makeInBrowser(keyward, browser);
          const registered = await keyward.registerPasskey({
            ...{ parent, displayName },
            ...newPasskey(answer),
            ...changeOf(options),
          });
          await output.one(PASSKEY, registered);
        },
      ),
    );
}

async function makeInBrowser(keyward: KeywardClient, browser: boolean): Promise<Answer> {
  const own: string[] = [];
  for await (const { name } of keyward.passkeys({})) own.push(lastPart(name));
  const begun = await keyward.beginPasskeyRegistration();
  const creationOptions = JSON.parse(begun.creationOptionsJson);
  const order = { kind: 'register', creationOptions, credentialIds: own };
  const withinMs = begun.expireTime.getTime() - Date.now();
  return signOff(begun.signOffUrl, order, { browser, withinMs, tell: tellOnError });
}

function newPasskey(answer: Answer) {
  const bytes = bytesIn(answer);
  const made = {
    credentialId: bytes('credentialId'),
    clientDataJson: bytes('clientDataJson'),
    attestationObject: bytes('attestationObject'),
  };
  if (!answer.has('voucher.signature')) return made;
  const assertion = {
    credentialId: bytes('voucher.credentialId'),
    clientDataJson: bytes('voucher.clientDataJson'),
    authenticatorData: bytes('voucher.authenticatorData'),
    signature: bytes('voucher.signature'),
  };
  return { ...made, assertion };
}
