// A page made from the data of another program, by a fetch with a tag.
export const revalidate = 3600;

export default async function Tagged() {
  let value = 'none';
  try {
    const response = await fetch(process.env.DATA_URL, { next: { tags: ['data'], revalidate: 3600 } });
    value = await response.text();
  } catch {
    // There is no data while the app is built.
  }
  return <p>{`value:${value}:end`}</p>;
}
