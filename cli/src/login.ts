/**
 * Adds `keyward login` and `keyward logout`.
 *
 * - A token is kept only after the service has accepted it.
 * - Neither shows a token.
 */
import type { Command } from 'commander';
import { KeywardError } from 'keyward-client';
import { placeOf } from 'keyward-client/settings';
import { UsageError } from './failures.ts';
import { printText } from './files.ts';
import { type GlobalOptions, optionsOf } from './globals.ts';
import { duration, wordsOption } from './options.ts';
import { type Connection, connected, connectionOf } from './session.ts';
import type { SignedIn, SignInOptions } from './signed-in.ts';

interface LoginOptions extends GlobalOptions {
  readonly device?: boolean;
  readonly browser: boolean;
  readonly acr: readonly string[];
  /** Seconds. */
  readonly maxAge?: number;
}

/** Adds `login` and `logout`. */
export function addLogin(program: Command): void {
  program
    .command('login')
    .description('sign in at the identity provider of the profile, and keep what it gave')
    .option('--device', 'sign in with a code, in a browser on any machine')
    .option('--no-browser', 'open no browser; the URL is shown anyway')
    .addOption(wordsOption('--acr <value>', 'how strong the sign-in must be; repeatable'))
    .option('--max-age <duration>', 'how old the sign-in may be, as in 15m', duration)
    .addHelpText('after', LOGIN_HELP)
    .action((_options, command: Command) => login(optionsOf<LoginOptions>(command)));
  program
    .command('logout')
    .description('forget what a sign-in gave, and revoke it where the provider can')
    .action(async (_options, command: Command) => {
      const { signedIn } = signInOf(optionsOf(command), 'sign out');
      await printText(SIGNED_OUT[await signedIn.signOut()]);
    });
}

async function login(options: LoginOptions): Promise<void> {
  const { settings, signedIn } = signInOf(options, 'sign in');
  const by = howOf(options);
  const grant = await signedIn.signIn(by);
  const caller = await callerWith(settings, options, grant.token.text);
  await signedIn.keep(grant, by);
  const expireTime = new Date(grant.token.expiresAt);
  if (options.output.isData) return options.output.data({ caller, expireTime });
  const until = `${expireTime.toISOString().slice(0, 19)}Z`;
  const isRenewed = by.strength === undefined && grant.refreshToken !== undefined;
  await printText(
    `Signed in as ${caller}.\nThe token is good until ${until}` +
      `${isRenewed ? ', and renewed after that' : ''}.\n`,
  );
}

function howOf({ device = false, browser, acr, maxAge }: LoginOptions): SignInOptions {
  const isStronger = acr.length > 0 || maxAge !== undefined;
  return {
    flow: device ? 'device' : 'code',
    browser,
    strength: isStronger ? { acrValues: acr, maxAgeSeconds: maxAge } : undefined,
  };
}

/** Asks the service who the token makes its bearer. */
async function callerWith(
  settings: Connection['settings'],
  { timeout }: GlobalOptions,
  token: string,
): Promise<string> {
  using keyward = connected({ ...placeOf(settings), token, defaultTimeoutMs: timeout });
  try {
    return (await keyward.getCaller()).name;
  } catch (error) {
    if (!(error instanceof KeywardError) || error.code !== 'UNAUTHENTICATED') throw error;
    throw new Error(
      `cannot sign in: ${settings.address} does not accept the provider's token ` +
        `(${error.reason}); ` +
        "the service's log has the cause, and docs/people.md what a token must have",
      { cause: error },
    );
  }
}

function signInOf(
  options: GlobalOptions,
  what: string,
): Connection & { readonly signedIn: SignedIn } {
  const { settings, signedIn } = connectionOf(options);
  if (signedIn !== undefined) return { settings, signedIn };
  throw new UsageError(
    `cannot ${what}: the profile in use has no issuer; add issuer and clientId to it, or name ` +
      'another with --profile',
  );
}

const SIGNED_OUT = {
  revoked: 'Signed out; the provider has revoked the sign-in.\n',
  removed: 'Signed out here. A token that was given is good until it expires.\n',
  none: 'There was no sign-in.\n',
} as const;

const LOGIN_HELP = `
For a profile with an OpenID provider in place of a certificate or token file:

  "alice": { "address": "keyward.example.com:7443", "caFile": "ca.pem",
    "issuer": "https://login.example.com", "clientId": "keyward" }

It may also have scopes ("openid offline_access" unless given), resource (RFC 8707) or audience,
whichever the provider takes to say what the token is for, and redirectUri
("http://127.0.0.1/callback" unless given, on any port).

Tokens are kept in the folder sign-ins beside your profiles, for your eyes only, and renewed when
they are about to expire. They are sent only to the address that the profile had when you signed
in. With --acr or --max-age the sign-in is a stronger one: its token is used until it expires, and
not renewed. When a call wants one, the command asks for it and goes on with the call.`;
