// Draws one of our dashboards with the components of which Grafana's own panels are made. `window.drawing` has the
// dashboard as Grafana stores it, and for each panel the answers of Prometheus to its queries (pictures.py).
import '@fontsource-variable/inter';
import {
  applyFieldOverrides,
  createTheme,
  dateTime,
  EventBusSrv,
  FieldType,
  getDisplayProcessor,
  getDisplayValueAlignmentFactors,
  getFieldDisplayValues,
  Registry,
  ThemeContext,
} from '@grafana/data';
import { BarGauge, BigValue, GlobalStyles, PanelChrome, PanelContextProvider, TimeSeries, VizRepeater } from '@grafana/ui';
import { createRoot } from 'react-dom/client';

const { dashboard, results, scheme, from, to, step, variables } = window.drawing;
const theme = createTheme({ colors: { mode: scheme } });
const WIDTH = 1600;
const [CELL, GAP, EDGE] = [30, 8, 16];

// Grafana's core registers these; as plain properties they are only copied.
const STANDARD = ['unit', 'min', 'max', 'decimals', 'displayName', 'noValue', 'color', 'thresholds', 'mappings'];
const CURVES = ['axisPlacement', 'axisSoftMax', 'drawStyle', 'lineInterpolation', 'lineWidth', 'lineStyle', 'fillOpacity', 'gradientMode', 'showPoints', 'stacking', 'spanNulls', 'thresholdsStyle'];
const property = (path, isCustom) => ({
  id: isCustom ? `custom.${path}` : path, path, name: path, isCustom, process: (value) => value, shouldApply: () => true, getItemsCount: () => 0,
});
const registry = new Registry(() => [...STANDARD.map((path) => property(path, false)), ...CURVES.map((path) => property(path, true))]);

function name(legend, metric) {
  if (legend === '__auto') {
    return Object.entries(metric).filter(([key]) => key !== '__name__').map(([, value]) => value).join(' ') || 'Value';
  }
  return legend.replace(/\{\{\s*(\w+)\s*\}\}/g, (_, label) => metric[label] ?? '');
}

// A series has a value or null for each step, so that a gap is drawn as a gap.
function frame(target, series) {
  const { __name__: _, ...labels } = series.metric;
  const known = new Map((series.values ?? [series.value]).map(([at, value]) => [Math.round(at * 1000), Number(value)]));
  const times = target.instant ? [...known.keys()] : Array.from({ length: Math.floor((to - from) / step) + 1 }, (_, index) => (from + index * step) * 1000);
  const values = times.map((at) => known.get(at) ?? null).map((value) => (Number.isFinite(value) ? value : null));
  const display = name(target.legendFormat, series.metric);
  return {
    refId: target.refId,
    name: display,
    length: times.length,
    fields: [
      { name: 'Time', type: FieldType.time, config: {}, values: times },
      { name: 'Value', type: FieldType.number, config: { displayNameFromDS: display }, labels, values },
    ],
  };
}

function frames(panel) {
  const data = panel.targets.flatMap((target, index) => results[panel.id][index].map((series) => frame(target, series)));
  return applyFieldOverrides({
    data, fieldConfig: panel.fieldConfig, fieldConfigRegistry: registry, replaceVariables: (text) => text, theme, timeZone: 'utc',
  });
}

const timeRange = { from: dateTime(from * 1000), to: dateTime(to * 1000), raw: { from: 'now', to: 'now' } };

function displayed(panel, data, sparkline) {
  return getFieldDisplayValues({
    fieldConfig: panel.fieldConfig, reduceOptions: panel.options.reduceOptions, replaceVariables: (text) => text, theme, data, sparkline, timeZone: 'utc',
  });
}

function Stat({ panel, data, width, height }) {
  const values = displayed(panel, data, panel.options.graphMode !== 'none');
  return (
    <VizRepeater
      source={values} getValues={() => values} width={width} height={height} orientation="auto" itemSpacing={3} renderCounter={0}
      renderValue={({ value, width, height, alignmentFactors }) => (
        <BigValue
          value={value.display} count={values.length} sparkline={value.sparkline} width={width} height={height} theme={theme}
          colorMode={panel.options.colorMode} graphMode={panel.options.graphMode} justifyMode={panel.options.justifyMode}
          textMode={panel.options.textMode} alignmentFactors={alignmentFactors} wideLayout={panel.options.wideLayout}
        />
      )}
    />
  );
}

function Bars({ panel, data, width, height }) {
  const values = displayed(panel, data, false);
  return (
    <VizRepeater
      source={values} getValues={() => values} width={width} height={height} orientation={panel.options.orientation} itemSpacing={10} renderCounter={0}
      minVizWidth={panel.options.minVizWidth} minVizHeight={panel.options.minVizHeight} maxVizHeight={panel.options.maxVizHeight}
      getAlignmentFactors={getDisplayValueAlignmentFactors}
      renderValue={({ value, width, height, orientation, alignmentFactors, count }) => (
        <BarGauge
          value={value.display} width={width} height={height} orientation={orientation} field={value.field} theme={theme}
          display={value.view?.getFieldDisplayProcessor(value.colIndex) ?? getDisplayProcessor({ theme, field: { type: FieldType.number, config: value.field } })}
          displayMode={panel.options.displayMode} showUnfilled={panel.options.showUnfilled} valueDisplayMode={panel.options.valueMode}
          namePlacement={panel.options.namePlacement} alignmentFactors={alignmentFactors} itemSpacing={10} text={panel.options.text}
        />
      )}
    />
  );
}

function Curves({ panel, data, width, height }) {
  return <TimeSeries frames={data} structureRev={1} width={width} height={height} timeRange={timeRange} timeZone="utc" legend={panel.options.legend} options={panel.options} />;
}

const KINDS = { stat: Stat, bargauge: Bars, timeseries: Curves };

function Panel({ panel }) {
  const column = (WIDTH - 2 * EDGE + GAP) / 24;
  const { x, y, w, h } = panel.gridPos;
  const place = { position: 'absolute', left: EDGE + x * column, top: y * (CELL + GAP), width: w * column - GAP, height: h * (CELL + GAP) - GAP };
  if (panel.type === 'row') {
    return <div className="heading" style={place}>{panel.title}</div>;
  }
  const data = frames(panel);
  const Kind = KINDS[panel.type];
  const empty = !data.some((one) => one.fields[1].values.some((value) => value !== null));
  return (
    <div style={place} className="panel" data-title={panel.title} data-empty={empty}>
      <PanelChrome title={panel.title} width={place.width} height={place.height} padding={panel.type === 'stat' ? 'none' : 'md'}>
        {(width, height) => (empty ? <div className="none" style={{ width, height }}>{panel.fieldConfig.defaults.noValue ?? 'No data'}</div> : <Kind panel={panel} data={data} width={width} height={height} />)}
      </PanelChrome>
    </div>
  );
}

const css = `
  body { margin: 0; background: ${theme.colors.background.canvas}; color: ${theme.colors.text.primary}; font: 14px 'Inter Variable', sans-serif; }
  header { display: flex; gap: 24px; align-items: baseline; padding: 14px ${EDGE}px; }
  header h1 { font-size: 18px; font-weight: 500; margin: 0 auto 0 0; }
  header span { color: ${theme.colors.text.secondary}; font-size: 13px; }
  .heading { font-size: 16px; font-weight: 500; line-height: ${CELL}px; }
  .none { display: flex; align-items: center; justify-content: center; color: ${theme.colors.text.secondary}; }
`;
theme.typography.fontFamily = "'Inter Variable', sans-serif";
const bottom = Math.max(...dashboard.panels.map(({ gridPos }) => gridPos.y + gridPos.h)) * (CELL + GAP) + GAP;
const context = { eventsScope: 'drawn', eventBus: new EventBusSrv(), sync: () => 0 };

document.fonts.load("14px 'Inter Variable'").then(() => createRoot(document.body).render(
  <ThemeContext.Provider value={theme}>
    <GlobalStyles />
    <style>{css}</style>
    <PanelContextProvider value={context}>
      <header>
        <h1>{dashboard.title}</h1>
        {variables.map(([label, value]) => <span key={label}>{label}: {value}</span>)}
      </header>
      <main style={{ position: 'relative', height: bottom }}>{dashboard.panels.map((panel) => <Panel key={panel.id} panel={panel} />)}</main>
    </PanelContextProvider>
  </ThemeContext.Provider>,
));
