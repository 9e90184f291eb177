// Rendered while it is built: two builds of this same code differ in nothing else.
export const dynamic = 'force-static';

export default function Page() {
  return <p>{`as of build ${process.env.TEXT}`}</p>;
}
