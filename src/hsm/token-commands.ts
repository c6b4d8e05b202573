/**
 * Commands to a token, each in an agent of its own: making the environment's objects, looking at
 * them, destroying them.
 *
 * The agent is never killed before it has answered: a token object half made is worse than waiting.
 * What serves uses `createTokenKey` and `keepCheckpoint` of those that change the token: an
 * administrator may ask for a new root or seal key, a signed checkpoint may be kept, and the agents
 * that serve have read-only sessions. All else, destroying above all, is an operator's command.
 */
import { KeywardError } from '../errors.ts';
import type { AnyId } from '../ids.ts';
import { TokenRefused } from './agent-pool.ts';
import type { AgentStarter } from './agent-starter.ts';
import { CommandAgent } from './command-agent.ts';
import type {
  CreateSettings,
  DestroySettings,
  InitializeSettings,
  KeepSettings,
  ProbeSettings,
  ReplyOf,
  RequestOf,
  ResumeSettings,
  ServeSettings,
  SurveySettings,
} from './protocol.ts';
import type {
  TokenIdentity,
  TokenPosture,
  TokenProfile,
  TokenReport,
  TokenSurvey,
} from './token-profile.ts';

/**
 * Probes the token and creates what the environment lacks in it. Doing it again changes nothing.
 * Throws {@link TokenRefused} with what the token lacks or what an operator has to mend.
 */
export function initializeToken(
  settings: InitializeSettings,
  starter: AgentStarter,
): Promise<ReplyOf<'initializeToken'>> {
  return runInAgent('initializeToken', settings, starter);
}

/**
 * Opens the token as serving does and reports on it, also when a wrong PIN was given before:
 * somebody has looked at it. Throws {@link TokenRefused}.
 */
export function checkToken(
  settings: Omit<ServeSettings, 'despiteFailedTry'>,
  starter: AgentStarter,
): Promise<TokenReport> {
  return runInAgent('start', { ...settings, despiteFailedTry: true }, starter);
}

/**
 * Opens the token and says what it and the environment's objects in it are, also where serving
 * would refuse them. A PIN that was wrong before isn't tried. Throws {@link TokenRefused} when the
 * token can't be opened.
 */
export function inspectToken(
  settings: Omit<ServeSettings, 'despiteFailedTry' | 'keyCacheSize'>,
  starter: AgentStarter,
): Promise<TokenPosture> {
  return runInAgent('inspectToken', { ...settings, despiteFailedTry: false }, starter);
}

/**
 * Makes one root or seal key. Throws {@link TokenRefused}, also when the token has an object of
 * this id, and AGENT_RULE_NOT_MET.
 */
export async function createTokenKey(
  settings: CreateSettings,
  starter: AgentStarter,
): Promise<void> {
  try {
    await runInAgent('createTokenKey', settings, starter);
  } catch (cause) {
    if (!(cause instanceof TokenRefused && cause.isNotApproved)) throw cause;
    throw new KeywardError('AGENT_RULE_NOT_MET', { message: cause.message, cause });
  }
}

/**
 * Has the token keep a checkpoint. Throws {@link TokenRefused}, also for one that isn't the token's
 * or isn't the latest.
 */
export async function keepCheckpoint(settings: KeepSettings, starter: AgentStarter): Promise<void> {
  await runInAgent('keepCheckpoint', settings, starter);
}

/** The checkpoint that the token keeps, if any. Throws {@link TokenRefused}. */
export async function readKeptCheckpoint(
  settings: Omit<ServeSettings, 'despiteFailedTry'>,
  starter: AgentStarter,
): Promise<string | undefined> {
  using agent = new CommandAgent(starter);
  await agent.call('start', { ...settings, despiteFailedTry: false });
  return (await agent.call('readKeptCheckpoint', {})).note ?? undefined;
}

/** Has the token sign the note that begins a generation of the log. Throws {@link TokenRefused}. */
export function signResumption(
  settings: ResumeSettings,
  starter: AgentStarter,
): Promise<ReplyOf<'signResumption'>> {
  return runInAgent('signResumption', settings, starter);
}

/**
 * The key that proves what the command of that UUID writes into the audit log's inbox. Throws
 * {@link TokenRefused}.
 */
export async function deriveWriterKey(
  settings: Omit<ServeSettings, 'despiteFailedTry' | 'keyCacheSize'>,
  starter: AgentStarter,
  replicaId: AnyId,
): Promise<ReplyOf<'deriveWriterKey'>> {
  using agent = new CommandAgent(starter);
  await agent.call('start', { ...settings, keyCacheSize: 1, despiteFailedTry: false });
  const derived = await agent.call('deriveWriterKey', { replicaId, maskKeyId: Buffer.alloc(0) });
  return { ...derived, key: Buffer.from(derived.key) };
}

/** The public half of the token's audit signing key, SPKI. Throws {@link TokenRefused}. */
export async function readAuditKey(
  settings: Omit<ServeSettings, 'despiteFailedTry'>,
  starter: AgentStarter,
): Promise<Buffer> {
  using agent = new CommandAgent(starter);
  await agent.call('start', { ...settings, despiteFailedTry: false });
  return (await agent.call('readAuditKey', {})).spki;
}

/**
 * Destroys objects of the environment, and returns how many of them were there: doing it again
 * destroys none. Throws {@link TokenRefused} when one of the ids isn't this environment's object.
 */
export async function destroyTokenKeys(
  settings: DestroySettings,
  starter: AgentStarter,
): Promise<number> {
  const { destroyed } = await runInAgent('destroyTokenKeys', settings, starter);
  return destroyed;
}

/** Which token agents open; needs no PIN. Throws {@link TokenRefused}, also when none is there. */
export function identifyToken(starter: AgentStarter): Promise<TokenIdentity> {
  return runInAgent('identifyToken', {}, starter);
}

/**
 * Opens the token and says what moving to it or from it would meet. Changes nothing. Throws
 * {@link TokenRefused}.
 */
export function surveyToken(settings: SurveySettings, starter: AgentStarter): Promise<TokenSurvey> {
  return runInAgent('surveyToken', settings, starter);
}

/**
 * How the token wants to be spoken to. Throws {@link TokenRefused}, also for a token of another
 * environment.
 */
export async function probeToken(
  settings: ProbeSettings,
  starter: AgentStarter,
): Promise<TokenProfile> {
  return (await runInAgent('probeToken', settings, starter)).profile;
}

/** An agent that seals and verifies records for a command. Each throws {@link TokenRefused}. */
export interface RecordAgent {
  seal(request: RequestOf<'sealRecords'>): Promise<ReplyOf<'sealRecords'>>;
  verify(request: RequestOf<'verifyRecords'>): Promise<ReplyOf<'verifyRecords'>>;
}

/**
 * Opens the token as serving does, for `work`. Throws {@link TokenRefused}, and what `work` throws.
 */
export async function withRecordAgent<T>(
  settings: Omit<ServeSettings, 'despiteFailedTry' | 'keyCacheSize'>,
  starter: AgentStarter,
  work: (agent: RecordAgent) => Promise<T>,
): Promise<T> {
  using agent = new CommandAgent(starter);
  await agent.call('start', { ...settings, keyCacheSize: 1, despiteFailedTry: false });
  return await work({
    seal: (request) => agent.call('sealRecords', request),
    verify: (request) => agent.call('verifyRecords', request),
  });
}

/** What an agent does for a command. */
type CommandName =
  | 'initializeToken'
  | 'createTokenKey'
  | 'destroyTokenKeys'
  | 'keepCheckpoint'
  | 'signResumption'
  | 'start'
  | 'inspectToken'
  | 'identifyToken'
  | 'surveyToken'
  | 'probeToken';

async function runInAgent<Name extends CommandName>(
  name: Name,
  request: RequestOf<Name>,
  starter: AgentStarter,
): Promise<ReplyOf<Name>> {
  using agent = new CommandAgent(starter);
  return await agent.call(name, request);
}
