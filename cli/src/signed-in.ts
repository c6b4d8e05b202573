/**
 * The caller of a profile with an issuer: the tokens that their sign-in left, renewed in time, and
 * a stronger sign-in where a call wants one.
 *
 * - One command renews at a time, and the others use what it got.
 * - A stronger sign-in is by the same person, and gives one token, which is never renewed.
 */
import type { StepUp } from 'keyward-client';
import { writeDuration } from './durations.ts';
import { quoted, UsageError } from './failures.ts';
import { type KeptSignIn, SignInFile } from './kept-sign-ins.ts';
import { printable } from './output/printable.ts';
import type { Settings, SignInSettings } from './profiles.ts';
import type { CallToken, Flow, Grant, Strength } from './sign-in.ts';

/** A token that expires sooner is not sent any more where there can be another. */
const RENEW_BEFORE_MS = 60_000;

/** How a person signs in. */
export interface SignInOptions {
  readonly flow: Flow;
  readonly browser: boolean;
  readonly strength?: Strength | undefined;
}

/** Returns who signs in with these settings of that profile; undefined where it has no issuer. */
export function signedInBy(
  settings: Settings,
  profilesFile: string | undefined,
  profile: string | undefined,
): SignedIn | undefined {
  const { issuer, clientId } = settings;
  if (issuer === undefined || clientId === undefined) return undefined;
  if (profilesFile === undefined || profile === undefined) return undefined;
  return new SignedIn({ ...settings, issuer, clientId }, profilesFile, profile);
}

/** The caller of one profile. */
export class SignedIn {
  readonly #settings: Settings & SignInSettings;
  readonly #profile: string;
  readonly #file: SignInFile;

  constructor(settings: Settings & SignInSettings, profilesFile: string, profile: string) {
    this.#settings = settings;
    this.#profile = profile;
    const { address, serverName, caFile, issuer, clientId, resource, audience, scopes } = settings;
    const all = { address, serverName, caFile, issuer, clientId, resource, audience, scopes };
    const purpose = Object.entries(all).flatMap(([name, value]) =>
      value === undefined ? [] : [[name, value] as const],
    );
    this.#file = new SignInFile(profilesFile, profile, Object.fromEntries(purpose));
  }

  /** Returns a token that is good now. Throws where the person has to sign in. */
  async token(): Promise<string> {
    return goodOf(this.#kept(), RENEW_BEFORE_MS) ?? this.#file.locked(() => this.#renewed());
  }

  /** Signs a person in, and keeps nothing yet. */
  async signIn({ flow, browser, strength }: SignInOptions): Promise<Grant> {
    const { address, issuer } = this.#settings;
    say(`Signing in at ${issuer}, to call ${address}.`);
    const provider = await this.#provider();
    return provider.signIn({ flow, browser, strength, say });
  }

  /** Keeps what a sign-in gave: a stronger one beside the one that lasts, if it is one person's. */
  async keep({ token, refreshToken, subject }: Grant, by: SignInOptions): Promise<void> {
    const { flow, strength } = by;
    await this.#file.locked(async () => {
      if (strength === undefined)
        return this.#file.write({ flow, subject, token, ...(refreshToken && { refreshToken }) });
      const before = this.#file.read();
      const lasting = before?.subject === subject ? before : { flow, subject };
      return this.#file.write({ ...lasting, stronger: token });
    });
  }

  /**
   * Returns a token of a stronger sign-in by the same person, for a call that wants one. Throws
   * where there is no terminal to ask at.
   */
  async stepUp(wanted: StepUp): Promise<string> {
    const kept = this.#kept();
    const strength = { acrValues: wanted.acrValues, maxAgeSeconds: wanted.maxAgeSeconds };
    if (!process.stderr.isTTY)
      throw new Error(
        `STEP_UP_REQUIRED: the call wants ${described(wanted)}; sign in with ` +
          `"${this.#loginCommand(strength)}", then repeat the command`,
      );
    say(`The call wants ${described(wanted)}.`);
    const by = { flow: kept.flow, browser: true, strength };
    const grant = await this.signIn(by);
    if (grant.subject !== kept.subject)
      throw new Error(
        `cannot continue the call: it is ${kept.subject}'s, and ${grant.subject} signed in`,
      );
    await this.keep(grant, by);
    return grant.token.text;
  }

  /** Forgets what is kept, and revokes it where the provider can. Returns what became of it. */
  signOut(): Promise<'revoked' | 'removed' | 'none'> {
    return this.#file.locked(async () => {
      const kept = this.#file.read();
      const secret = kept?.refreshToken ?? kept?.token?.text;
      this.#file.remove();
      if (kept === undefined) return 'none';
      if (secret === undefined) return 'removed';
      try {
        return (await (await this.#provider()).revoke(secret)) ? 'revoked' : 'removed';
      } catch (error) {
        say(printable(`The tokens were removed here, but not revoked: ${messageOf(error)}`));
        return 'removed';
      }
    });
  }

  #kept(): KeptSignIn {
    const kept = this.#file.read();
    if (kept !== undefined) return kept;
    const { address } = this.#settings;
    throw new UsageError(
      `cannot call ${address}: you are not signed in with the profile ${this.#profile} and these ` +
        `settings; sign in with "${this.#loginCommand()}"`,
    );
  }

  async #renewed(): Promise<string> {
    const kept = this.#kept();
    const good = goodOf(kept, RENEW_BEFORE_MS);
    if (good !== undefined) return good;
    const last = goodOf(kept, 0);
    if (kept.refreshToken === undefined) return last ?? this.#over('the sign-in has expired');
    try {
      const grant = await (await this.#provider()).renew(kept.refreshToken, kept.subject);
      await this.#file.write({ ...kept, ...grant });
      return grant.token.text;
    } catch (error) {
      if (last !== undefined) return last;
      if (!isRefusal(error)) throw error;
      this.#file.remove();
      return this.#over(messageOf(error));
    }
  }

  #over(why: string): never {
    throw new UsageError(
      `cannot call as the profile ${this.#profile}: ${why}; sign in again with ` +
        `"${this.#loginCommand()}"`,
    );
  }

  /** What signing in takes is loaded only then: it takes a while. */
  async #provider() {
    const { Provider } = await import('./sign-in.ts');
    return Provider.of(this.#settings);
  }

  #loginCommand({ acrValues, maxAgeSeconds }: Strength = { acrValues: [] }): string {
    const words = ['keyward', 'login', '--profile', this.#profile];
    for (const value of acrValues) words.push('--acr', value);
    if (maxAgeSeconds !== undefined) words.push('--max-age', writeDuration(maxAgeSeconds));
    return words.map(quoted).join(' ');
  }
}

/** The token to send, of those that are good for that long. */
function goodOf({ stronger, token }: KeptSignIn, milliseconds: number): string | undefined {
  const isGood = (each?: CallToken) => (each?.expiresAt ?? 0) > Date.now() + milliseconds;
  return [stronger, token].find(isGood)?.text;
}

function described({ acrValues, methods, maxAgeSeconds }: StepUp): string {
  const parts = ['a sign-in'];
  if (acrValues.length > 0) parts.push(`with acr ${acrValues.join(' or ')}`);
  if (methods.length > 0) parts.push(`by ${methods.join(' and ')}`);
  if (maxAgeSeconds !== undefined) parts.push(`at most ${writeDuration(maxAgeSeconds)} old`);
  return printable(parts.join(' '));
}

function isRefusal(error: unknown): boolean {
  return error instanceof Error && error.name === 'SignInRefused';
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

function say(line: string): void {
  process.stderr.write(`${line}\n`);
}
