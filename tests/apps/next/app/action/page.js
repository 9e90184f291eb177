import { connection } from 'next/server';

import state from '../../lib/instance.js';
import { greet } from './actions.js';

/** The hidden field `$ACTION_ID_…` of this form is the id that the header `Next-Action` takes. */
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
