import { connection } from 'next/server';

import state from '../../lib/instance.js';
import { greet } from './actions.js';

/** A form whose hidden field `$ACTION_ID_…` has the id for the header `Next-Action`. */
export default async function Action() {
  await connection();
  return (
    <form action={greet}>
      <p>{`actions:${state.actions}`}</p>
      <input name="name" defaultValue="Ada" />
      <button>Greet</button>
    </form>
  );
}
