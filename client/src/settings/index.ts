/**
 * How programs on a person's machine find the service: `keyward-client/settings`, for the `keyward`
 * command. Programs of one's own call `connect()`.
 */
export {
  allowedFile,
  digestOf,
  isAllowed,
  readAllowed,
  refuseOthersCredentials,
  requireAllowed,
} from './allowed.ts';
export {
  credentialsOf,
  findConnection,
  placeOf,
  profileUsed,
  type Spelling,
  settingsGiven,
  type UsableSettings,
} from './connection.ts';
export * from './profiles.ts';
