// A figure of plotly whose model is ready before plotly is; updates that come meanwhile are in what
// it draws first, since a panel keeps the widget's data and layout up to date.
export default () => {
  let figure;
  const load = async (model) => {
    const code = new Blob([model.get("_plotly")], { type: "text/javascript" });
    const address = URL.createObjectURL(code);
    const loaded = (await import(address)).default();
    URL.revokeObjectURL(address);
    loaded.initialize({ model });
    return loaded;
  };
  return {
    initialize({ model }) { figure = load(model); },
    async render(options) { return (await figure).render(options); },
  };
};
